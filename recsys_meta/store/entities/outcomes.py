"""Outcomes: what became of an event, judged by the list shown before it and by the state before it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from recsys_meta.store.database.bulk_insert import in_chunks, insert_into, table_of
from recsys_meta.store.entities.adaptations import drop_erased
from recsys_meta.store.entities.entities import hold_erasure_lock
from recsys_meta.store.entities.tables import ImpressionRecord, OutcomeRecord


class NewOutcome(NamedTuple):
    """The outcome of one event, as in `OutcomeRecord`; `created` is when the event arrived."""

    kind: str
    event_id: str
    entity: str
    model: str
    model_version: str
    variant: str | None
    support_size: int
    created: datetime
    impression: int | None = None
    rank: int | None = None
    hit_1: float | None = None
    hit_5: float | None = None
    hit_10: float | None = None
    reciprocal_rank: float | None = None
    popular_hit_10: float | None = None
    loss: float | None = None
    loss_unadapted: float | None = None


def save_outcomes(session: Session, rows: Sequence[NewOutcome]) -> int:
    """Write rows, except those of events that have one and of entities erased since; return how many were written."""
    if not rows:
        return 0
    hold_erasure_lock(session, exclusive=False)
    records = [{**row._asdict(), "day": row.created.astimezone(UTC).date()} for row in drop_erased(session, rows)]
    new = insert_into(session, OutcomeRecord).on_conflict_do_nothing(index_elements=["kind", "event_id"])
    statement = new.returning(OutcomeRecord.event_id)
    return sum(len(session.execute(statement, list(chunk)).all()) for chunk in in_chunks(records))


def find_impression(impressions: Sequence[ImpressionRecord], item: str, until: datetime) -> ImpressionRecord | None:
    """Find the list that an event with an item answers, among some, newest first: the newest one shown until then that
    holds the item, or else the newest one; None where there is none."""
    earlier = [one for one in impressions if one.created <= until]
    return next((one for one in earlier if item in one.items), earlier[0] if earlier else None)


def hits_in_list(impression: ImpressionRecord, item: str, popular_rank: int | None) -> dict[str, float | int | None]:
    """Return rank, hits and reciprocal rank of an item in a list, by column; hits of a list by popularity as long."""
    rank = impression.first_rank + impression.items.index(item) if item in impression.items else None
    depth = impression.first_rank + len(impression.items) - 1
    return {
        "impression": impression.id,
        "rank": rank,
        **{f"hit_{n}": float(rank is not None and rank <= n) for n in (1, 5, 10)},
        "reciprocal_rank": 0.0 if rank is None else 1 / rank,
        "popular_hit_10": None if popular_rank is None else float(popular_rank <= min(10, depth)),
    }


def entity_outcomes(session: Session, kind: str, entity: str, limit: int = 20) -> list[OutcomeRecord]:
    """Return the outcomes of an entity's newest events, the newest first."""
    query = select(OutcomeRecord).where(OutcomeRecord.kind == kind, OutcomeRecord.entity == entity)
    return list(session.scalars(query.order_by(OutcomeRecord.created.desc(), OutcomeRecord.event_id).limit(limit)))


def prune_outcomes(session: Session, before: datetime) -> int:
    """Delete outcomes of events that arrived before a time; return how many."""
    old = OutcomeRecord.created < before
    count = session.scalar(select(func.count()).select_from(OutcomeRecord).where(old)) or 0
    session.execute(delete(table_of(OutcomeRecord)).where(old))
    return count
