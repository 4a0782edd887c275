"""Guardrail of what is in service: an alert for a version whose lists are worse than lists by popularity would be.

Both are judged by the same events, those that answered a list: the share of chosen items among the first ten. People
choose from what they are shown, which is in favour of the version; one that loses all the same is worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Integer, Select, case, delete, func, select, update
from sqlalchemy.orm import Session

from recsys_meta.metrics.sequential_test import MIN_ENTITIES, RatioSums, sequence_margin
from recsys_meta.store.database.bulk_insert import insert_into
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.entities.tables import OutcomeRecord
from recsys_meta.store.model_registry.registry import page_models
from recsys_meta.store.model_registry.split_arms import current_splits
from recsys_meta.store.model_registry.tables import AlertRecord

WORSE_THAN_POPULARITY = "worse than popularity"
"""The rule of these alerts."""

WINDOW = timedelta(days=28)
"""Time that a check looks back."""

MOST_EVENTS = 500_000
"""Newest events that a check looks at: a million take two seconds."""

_MIN_DIFFERING = 10  # events that only one of the two hits: for fewer the normal approximation says nothing


@dataclass(frozen=True)
class GuardrailCheck:
    """Difference of the shares of hits, of a version less popularity, with a 95% interval that holds at every check."""

    model: str
    version: str
    difference: float
    low: float
    high: float
    events: int
    entities: int

    @property
    def is_worse(self) -> bool:
        """True where the version loses to popularity."""
        return self.high < 0


def check_versions(session: Session, now: datetime | None = None) -> list[GuardrailCheck]:
    """Check every version in service, live ones and arms of splits, of which enough is known."""
    versions = [(m.name, m.live) for m in page_models(session) if m.live is not None]
    versions += [(split.model, arm.version) for split in current_splits(session) for arm in split.arms]
    since = _oldest(session, utcnow(now) - WINDOW)
    checks = (_check_version(session, model, version, since) for model, version in dict.fromkeys(versions))
    return [check for check in checks if check is not None]


def _oldest(session: Session, since: datetime) -> datetime:
    """Return since when events are looked at: of all models together they are bounded in number, and so is the time."""
    created = OutcomeRecord.created
    newest = select(created).where(created >= since).order_by(created.desc())
    return session.scalar(newest.offset(MOST_EVENTS - 1).limit(1)) or since


def open_alerts(session: Session) -> list[AlertRecord]:
    """Return the alerts that stand, the newest first."""
    query = select(AlertRecord).where(AlertRecord.ended.is_(None))
    return list(
        session.scalars(query.order_by(AlertRecord.opened.desc(), AlertRecord.model, AlertRecord.model_version))
    )


def record_alerts(session: Session, checks: Sequence[GuardrailCheck], now: datetime | None = None) -> None:
    """Open an alert for each version that is worse, or bring it up to date; end those of all other versions."""
    at = utcnow(now)
    worse = {(check.model, check.version): check for check in checks if check.is_worse}
    for alert in open_alerts(session):
        key = alert.model, alert.model_version
        if alert.rule == WORSE_THAN_POPULARITY and key not in worse:
            mine = (AlertRecord.model == alert.model) & (AlertRecord.model_version == alert.model_version)
            session.execute(
                update(AlertRecord).where(mine, AlertRecord.rule == alert.rule).values(ended=at, checked=at)
            )
    for check in worse.values():
        _open(session, check, at)
    session.flush()


def prune_alerts(session: Session, before: datetime) -> int:
    """Delete alerts that ended before a time; return how many."""
    rows = session.execute(delete(AlertRecord).where(AlertRecord.ended < before).returning(AlertRecord.model)).all()
    return len(rows)


def _open(session: Session, check: GuardrailCheck, at: datetime) -> None:
    values = {"difference": check.difference, "low": check.low, "high": check.high}
    values |= {"events": check.events, "entities": check.entities}
    key = {"model": check.model, "model_version": check.version, "rule": WORSE_THAN_POPULARITY}
    new = insert_into(session, AlertRecord)
    reopened = case((AlertRecord.ended.is_(None), AlertRecord.opened), else_=new.excluded.opened)
    statement = new.on_conflict_do_update(
        index_elements=["model", "model_version", "rule"],
        set_={**{name: new.excluded[name] for name in (*values, "checked")}, "opened": reopened, "ended": None},
    )
    session.execute(statement, {**key, **values, "opened": at, "checked": at, "ended": None})


def _check_version(session: Session, model: str, version: str, since: datetime) -> GuardrailCheck | None:
    *values, differing = session.execute(_sums(model, version, since)).one()
    sums = RatioSums(*values)
    if sums.entities < MIN_ENTITIES or differing < _MIN_DIFFERING or not sums.variance > 0:
        return None
    margin = sequence_margin(sums.variance)
    low, high = sums.ratio - margin, sums.ratio + margin
    return GuardrailCheck(model, version, sums.ratio, low, high, round(sums.bottom), sums.entities)


def _sums(model: str, version: str, since: datetime) -> Select[Any]:
    """Sums over entities of the difference in hits and of the events, and of their products."""
    columns = OutcomeRecord
    difference = columns.hit_10 - columns.popular_hit_10
    by_entity = (
        select(
            func.sum(difference).label("top"),
            func.sum(columns.hit_10 * 0.0 + 1.0).label("bottom"),
            func.sum(case((difference != 0, 1), else_=0)).label("differing"),
        )
        .where(columns.model == model, columns.model_version == version, columns.created >= since)
        .where(difference.is_not(None))
        .group_by(columns.kind, columns.entity)
        .subquery()
    )
    top, bottom = by_entity.c.top, by_entity.c.bottom
    products = (
        func.coalesce(func.sum(value), 0.0) for value in (top, bottom, top * top, top * bottom, bottom * bottom)
    )
    differing = func.coalesce(func.sum(by_entity.c.differing), 0).cast(Integer).label("differing")
    return select(func.count(), *products, differing).select_from(by_entity)
