"""Log of adaptations: a row for each adapted entity, written outside of requests."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple, Protocol, TypeVar

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from recsys_meta.store.database.bulk_insert import in_chunks, table_of, unique
from recsys_meta.store.database.keyset_pagination import KeysetPage, newest_page
from recsys_meta.store.entities.entities import entity_digests, hold_erasure_lock
from recsys_meta.store.entities.tables import AdaptationRecord, ErasureRecord

ServedBy = Literal["adapted", "cache", "prior", "popular"]


class TimedRow(Protocol):
    """A row about an entity with the time of its creation."""

    @property
    def kind(self) -> str: ...
    @property
    def entity(self) -> str: ...
    @property
    def created(self) -> datetime: ...


Row = TypeVar("Row", bound=TimedRow)


class NewAdaptation(NamedTuple):
    """One adaptation: ``ms`` in milliseconds, losses as means over the support, None if the support was empty.

    A row may stand for several ``answers`` that needed no adaptation; ``ms`` is their mean then. ``variant`` is the
    label of the split's arm that answered, if one did: one version may be two arms.
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
    """Write rows in bulk, merged by `merge_answers`; return how many were written.

    Rows wait in a queue before they are written. Those of an entity that was erased after their creation are dropped,
    or the queue of any process would restore what the erasure removed.
    """
    if not rows:
        return 0
    hold_erasure_lock(session, exclusive=False)
    records = merge_answers(drop_erased(session, rows))
    if records:
        session.execute(insert(table_of(AdaptationRecord)), [row._asdict() for row in records])
    return len(records)


def merge_answers(rows: Sequence[NewAdaptation]) -> list[NewAdaptation]:
    """Return every adaptation, and one row for all answers of one arm to the same entity that needed no adaptation.

    A row for each of these would cost more than the cached answer itself and hold no more information.
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
    # An erasure removes older rows, so the merged row is as old as its oldest answer.
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
    """Return a page of adaptations, newest first.

    Raises ValueError for a limit outside 1 to 1000 or a cursor of another list.
    """
    query = select(AdaptationRecord)
    filters = {"kind": kind, "entity": entity, "model_version": model_version, "served_by": served_by}
    for name, value in filters.items():
        if value is not None:
            query = query.where(getattr(AdaptationRecord, name) == value)
    keys = {AdaptationRecord.created: datetime, AdaptationRecord.id: int}
    return newest_page(session, query, "adaptations", keys, limit, cursor)


class AnswerTiming(NamedTuple):
    """Row of the log, as far as it is about time and fit: who served its answers, for how many events, how fast."""

    model_version: str
    served_by: str
    support_size: int
    answers: int
    ms: float
    loss_before: float | None
    loss_after: float | None
    created: datetime


def newest_answers(session: Session, limit: int = 5000) -> list[AnswerTiming]:
    """Return the newest rows of the log, those of all entities, the newest first."""
    columns = [getattr(AdaptationRecord, name) for name in AnswerTiming._fields]
    query = select(*columns).order_by(AdaptationRecord.created.desc(), AdaptationRecord.id.desc()).limit(limit)
    return [AnswerTiming(*row) for row in session.execute(query)]


def prune_adaptations(session: Session, before: datetime) -> int:
    """Delete adaptations created before a time; return how many."""
    old = AdaptationRecord.created < before
    count = session.scalar(select(func.count()).select_from(AdaptationRecord).where(old)) or 0
    session.execute(delete(table_of(AdaptationRecord)).where(old))
    return count


def drop_erased(session: Session, rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose entity was not erased after their creation. The caller holds the erasure lock."""
    erasures = _erasure_times(session, rows)
    if not erasures:
        return list(rows)
    return [row for row in rows if not _is_erased(row, erasures.get((row.kind, row.entity)))]


def _erasure_times(session: Session, rows: Sequence[TimedRow]) -> dict[tuple[str, str], datetime]:
    """Return the time of the last erasure of each entity among the rows, by kind and id."""
    names = unique((row.kind, row.entity) for row in rows)
    entities = {digest: name for name in names for digest in entity_digests(session, *name)}
    last: dict[tuple[str, str], datetime] = {}
    for chunk in in_chunks(list(entities)):
        query = select(ErasureRecord.entity_digest, ErasureRecord.confirmed).where(
            ErasureRecord.entity_digest.in_(chunk)
        )
        for digest, at in session.execute(query.order_by(ErasureRecord.confirmed)):
            last[entities[digest]] = at
    return last


def _is_erased(row: TimedRow, at: datetime | None) -> bool:
    return at is not None and row.created <= at
