"""Results of single newcomers in evaluations: who gained least from adapting, beside a random sample of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from recsys_meta.store.database.bulk_insert import in_chunks, table_of, unique
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.entities.entities import erased_entities, hold_erasure_lock
from recsys_meta.store.entities.tables import NewcomerResultRecord


@dataclass(frozen=True)
class NewNewcomerResult:
    """Result of a newcomer at one point of an evaluation; the columns are those of `NewcomerResultRecord`."""

    dataset: str
    scenario: str
    method: str
    seed: int
    kind: str
    entity: str
    metric: str
    shots: int
    value: float
    value_unadapted: float | None
    value_baseline: float | None
    gain: float | None
    place: int | None
    is_random: bool
    support_size: int
    popularity: float | None
    features_known: int
    features: Mapping[str, Any]


def save_newcomer_results(session: Session, rows: Sequence[NewNewcomerResult], now: datetime | None = None) -> int:
    """Write the newcomers of one evaluation; return how many rows were written.

    An entity that was ever erased is left out: the data set of the evaluation may still hold it.
    """
    if not rows:
        return 0
    hold_erasure_lock(session, exclusive=False)
    erased = {
        (kind, entity)
        for kind in unique(row.kind for row in rows)
        for entity in erased_entities(session, kind, unique(row.entity for row in rows if row.kind == kind))
    }
    created = utcnow(now)
    records = [{**asdict(row), "created": created} for row in rows if (row.kind, row.entity) not in erased]
    for part in in_chunks(records):
        session.execute(insert(table_of(NewcomerResultRecord)), list(part))
    return len(records)


def prune_newcomer_results(session: Session, before: datetime) -> int:
    """Delete the rows of evaluations that were made before a time; return how many."""
    old = NewcomerResultRecord.created < before
    count = session.scalar(select(func.count()).select_from(NewcomerResultRecord).where(old)) or 0
    session.execute(delete(table_of(NewcomerResultRecord)).where(old))
    return count
