"""Summation of days that are over, from time to time, so that the views of outcomes and adaptations answer at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from api.persistence.async_database import AsyncDatabase
from recsys_meta.store.database.engine import StoreUnavailable
from recsys_meta.store.entities.daily_sums import sum_next_day

INTERVAL_S = 15.0
"""Interval at which a process looks for days whose rows changed, seconds; more where summing them takes long."""

_SHARE = 0.05  # of the time that summing may take


class DaySummation:
    """Sums days one after the other, each in a transaction of its own. Every process does; none sums a day twice."""

    def __init__(self, database: AsyncDatabase, log: Any) -> None:
        self._database, self._log = database, log

    async def run(self, closing: asyncio.Event) -> None:
        """Sum days until the server closes. No error may end it."""
        took = 0.0
        while not closing.is_set():
            await asyncio.sleep(max(INTERVAL_S, took / _SHARE))
            began = time.monotonic()
            try:
                await self.sum_days(closing)
            except StoreUnavailable as error:
                if not self._database.degraded:  # else there is a line already
                    self._log.warning("a day could not be summed", reason=str(error))
            except Exception:
                self._log.error("summing days failed", exc_info=True)
            took = time.monotonic() - began

    async def sum_days(self, closing: asyncio.Event) -> int:
        """Sum the days before today whose rows changed; return how many. Raises StoreUnavailable."""
        count = 0
        while not closing.is_set() and await self._database.write(sum_next_day) is not None:
            count += 1
        return count
