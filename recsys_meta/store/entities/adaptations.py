"""What adapting did: a row for each adapted newcomer, written off the hot path."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple, Protocol, TypeVar

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from recsys_meta.store.database.bulk_insert import in_chunks, table_of, unique
from recsys_meta.store.database.keyset_pagination import KeysetPage, after_cursor, decode_cursor, page_size, paginate
from recsys_meta.store.entities.entities import entity_digest, hold_erasure_lock
from recsys_meta.store.entities.tables import AdaptationRecord, ErasureRecord

ServedBy = Literal["adapted", "cache", "prior", "popular"]


class TimedRow(Protocol):
    """A row about an entity, and when it was made."""

    @property
    def kind(self) -> str: ...
    @property
    def entity(self) -> str: ...
    @property
    def created(self) -> datetime: ...


Row = TypeVar("Row", bound=TimedRow)


class NewAdaptation(NamedTuple):
    """One adaptation; ``ms`` is milliseconds, losses are means over the support, None where there was none.

    A row may stand for several ``answers`` that needed no adaptation; ``ms`` is their mean then. ``variant`` is the arm
    of a split that answered, if one did: one version may be two arms.
    """

    model_version: str
    kind: str
    entity: str
    support_size: int
    steps: int
    loss_before: float | None
    loss_after: float | None
    gradient_norm: float | None
    ms: float
    served_by: ServedBy
    created: datetime
    answers: int = 1
    variant: str | None = None


def save_adaptations(session: Session, rows: Sequence[NewAdaptation]) -> int:
    """Write rows in bulk; answers how many. Those of answers that adapted nothing are put `together`.

    Rows wait in a queue before they come here. Those of an entity that was erased after they were made are left out,
    or the queue of any process would bring back what the erasure took away.
    """
    if not rows:
        return 0
    hold_erasure_lock(session, exclusive=False)
    records = merge_answers(drop_erased(session, rows))
    if records:
        session.execute(insert(table_of(AdaptationRecord)), [row._asdict() for row in records])
    return len(records)


def merge_answers(rows: Sequence[NewAdaptation]) -> list[NewAdaptation]:
    """Every adaptation, and one row for the answers of one arm that needed none about the same newcomer, made when the
    first was.

    A row each would cost more than an answer from a cache does, and tell nothing more.
    """
    adapted_rows: list[NewAdaptation] = []
    groups: dict[tuple[object, ...], list[NewAdaptation]] = {}
    for row in rows:
        if row.served_by == "adapted":
            adapted_rows.append(row)
        else:
            key = (row.model_version, row.variant, row.kind, row.entity, row.support_size, row.served_by)
            groups.setdefault(key, []).append(row)
    return adapted_rows + [_merge_group(group) for group in groups.values()]


def _merge_group(rows: Sequence[NewAdaptation]) -> NewAdaptation:
    answers = sum(row.answers for row in rows)
    ms = sum(row.ms * row.answers for row in rows) / answers
    # An erasure takes what is older than itself, so the row is as old as its oldest answer.
    return rows[0]._replace(ms=ms, answers=answers, created=min(row.created for row in rows))


def page_adaptations(
    session: Session,
    *,
    kind: str | None = None,
    entity: str | None = None,
    model_version: str | None = None,
    served_by: ServedBy | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> KeysetPage[AdaptationRecord]:
    """Adaptations, newest first. Raises ValueError for a limit outside 1 to 1000 or a strange cursor."""
    columns = (AdaptationRecord.created, AdaptationRecord.id)
    query = select(AdaptationRecord).order_by(*(c.desc() for c in columns)).limit(page_size(limit) + 1)
    filters = {"kind": kind, "entity": entity, "model_version": model_version, "served_by": served_by}
    for name, value in filters.items():
        if value is not None:
            query = query.where(getattr(AdaptationRecord, name) == value)
    if cursor is not None:
        keys = decode_cursor("adaptations", cursor, (datetime, int))
        query = query.where(after_cursor(columns, keys, descending=True))
    return paginate("adaptations", session.scalars(query).all(), limit, ("created", "id"))


def prune_adaptations(session: Session, before: datetime) -> int:
    """Delete adaptations made before a time; answers how many."""
    old = AdaptationRecord.created < before
    count = session.scalar(select(func.count()).select_from(AdaptationRecord).where(old)) or 0
    session.execute(delete(table_of(AdaptationRecord)).where(old))
    return count


def drop_erased(session: Session, rows: Sequence[Row]) -> list[Row]:
    """Rows whose entity was not erased after they were made. The caller holds the lock of erasures."""
    erasures = _erasure_times(session, rows)
    return [row for row in rows if not _is_erased(row, erasures)] if erasures else list(rows)


def _erasure_times(session: Session, rows: Sequence[TimedRow]) -> dict[str, datetime]:
    """When each entity among the rows was last erased, by digest."""
    last: dict[str, datetime] = {}
    for chunk in in_chunks([entity_digest(*name) for name in unique((row.kind, row.entity) for row in rows)]):
        query = select(ErasureRecord.entity_digest, ErasureRecord.confirmed).where(
            ErasureRecord.entity_digest.in_(chunk)
        )
        for name, at in session.execute(query.order_by(ErasureRecord.confirmed)):
            last[name] = at
    return last


def _is_erased(row: TimedRow, erasures: dict[str, datetime]) -> bool:
    at = erasures.get(entity_digest(row.kind, row.entity))
    return at is not None and row.created <= at
