"""Monitor of the guardrail: from time to time every version in service is compared with popularity."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy.orm import Session

from api.persistence.async_database import AsyncDatabase
from api.persistence.periodic_task import PeriodicTask
from recsys_meta.store.model_registry import guardrail
from recsys_meta.store.model_registry.guardrail import GuardrailCheck

INTERVAL_S = 60.0
"""Interval at which a process compares the versions in service with popularity, seconds; more where that takes long."""

_SHARE = 0.02  # of the time that checks may take

_Versions = dict[tuple[str, str], GuardrailCheck]


class AlertMonitor:
    """Number of alerts that stand, as of the last check. Every process checks, and all write the same rows."""

    def __init__(self, database: AsyncDatabase, log: Any) -> None:
        self._database, self._log = database, log
        self._worse: frozenset[tuple[str, str]] = frozenset()
        self.alerts = 0

    async def run(self, closing: asyncio.Event) -> None:
        """Check until the server closes. No error may end it."""
        task = PeriodicTask("checking versions", self.check, INTERVAL_S, _SHARE, self._database, self._log)
        await task.run(closing)

    async def check(self) -> None:
        """Compare the versions in service with popularity, and open or end alerts. Raises StoreUnavailable."""
        checks, alerts = await self._database.read_report(_read)
        worse = {(check.model, check.version): check for check in checks if check.is_worse}
        if worse or alerts:
            await self._database.write(lambda session: guardrail.record_alerts(session, checks))
        self._log_news(worse)
        self.alerts = len(worse)

    def _log_news(self, worse: _Versions) -> None:
        for model, version in worse.keys() - self._worse:
            check = worse[model, version]
            figures = {"difference": round(check.difference, 4), "events": check.events}
            self._log.warning("a version is worse than popularity", model=model, version=version, **figures)
        self._worse = frozenset(worse)


def _read(session: Session) -> tuple[list[GuardrailCheck], int]:
    return guardrail.check_versions(session), len(guardrail.open_alerts(session))
