"""Log of explorations: a row for each explored list, for evaluation by inverse propensity weighting."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from recsys_meta.store.database.bulk_insert import table_of
from recsys_meta.store.entities.adaptations import drop_erased
from recsys_meta.store.entities.entities import hold_erasure_lock
from recsys_meta.store.entities.tables import ExplorationRecord


@dataclass(frozen=True)
class NewExploration:
    """One explored list of `candidates` entities for an item: the one put first, and its propensity (0 to 1)."""

    request_id: str
    model: str
    model_version: str
    kind: str
    entity: str
    item: str
    candidates: int
    propensity: float
    seed: int
    created: datetime


def save_explorations(session: Session, rows: Sequence[NewExploration]) -> int:
    """Write rows in bulk, except those of entities erased since their creation; return how many were written."""
    if not rows:
        return 0
    hold_erasure_lock(session, exclusive=False)
    records = drop_erased(session, rows)
    if records:
        session.execute(insert(table_of(ExplorationRecord)), [asdict(row) for row in records])
    return len(records)


def prune_explorations(session: Session, before: datetime) -> int:
    """Delete explorations created before a time; return how many."""
    old = ExplorationRecord.created < before
    count = session.scalar(select(func.count()).select_from(ExplorationRecord).where(old)) or 0
    session.execute(delete(table_of(ExplorationRecord)).where(old))
    return count
