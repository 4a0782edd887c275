"""Summation of days that are over, from time to time, so that the views of outcomes and adaptations answer at once."""

from __future__ import annotations

import asyncio
from typing import Any

from api.persistence.async_database import AsyncDatabase
from api.persistence.periodic_task import PeriodicTask
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
        task = PeriodicTask(
            "summing days", lambda: self.sum_days(closing), INTERVAL_S, _SHARE, self._database, self._log
        )
        await task.run(closing)

    async def sum_days(self, closing: asyncio.Event) -> int:
        """Sum the days before today whose rows changed; return how many. Raises StoreUnavailable."""
        count = 0
        while not closing.is_set() and await self._database.write(sum_next_day) is not None:
            count += 1
        return count
