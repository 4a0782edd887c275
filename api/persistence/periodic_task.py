"""Periodic task of a server: work on the database that is done again and again, and that no error may end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from api.persistence.async_database import AsyncDatabase
from recsys_meta.store.database.engine import StoreUnavailable


@dataclass(frozen=True)
class PeriodicTask:
    """Work that starts `interval_s` seconds after it last ended, or later: it may take at most `share` of the time.

    `name` is what the log says of a failure. While the database is away, the log already says so once.
    """

    name: str
    work: Callable[[], Awaitable[object]]
    interval_s: float
    share: float
    database: AsyncDatabase
    log: Any

    async def run(self, closing: asyncio.Event) -> None:
        """Do the work until the server closes. No error may end it."""
        took = 0.0
        while not closing.is_set():
            await asyncio.sleep(max(self.interval_s, took / self.share))
            began = time.monotonic()
            try:
                await self.work()
            except StoreUnavailable as error:
                if not self.database.degraded:
                    self.log.warning(f"{self.name} has to wait", reason=str(error))
            except Exception:
                self.log.error(f"{self.name} failed", exc_info=True)
            took = time.monotonic() - began
