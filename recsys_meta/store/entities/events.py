"""Events of entities: the interactions from which every adapted state is derived."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from recsys_meta.store.database.bulk_insert import in_chunks, insert_into, unique
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.entities.tables import EventRecord

Outcome = Literal["new", "duplicate", "conflict"]
_Key = tuple[str, str]


@dataclass(frozen=True)
class NewEvent:
    """An interaction to store. ``time`` None: the sender gave none, and the event gets that under which it was stored
    before, or else the time of storing. ``context`` holds further fields of the row. ``label_given`` is False where the
    sender gave no label, and ``label`` is what that stands for."""

    kind: str
    event_id: str
    entity: str
    item: str
    label: float
    time: datetime | None
    context: dict[str, Any] | None = None
    label_given: bool = True


def insert_events(session: Session, events: Sequence[NewEvent], now: datetime | None = None) -> list[Outcome]:
    """Store events and return one outcome for each.

    ``new``: stored; ``duplicate``: already stored with the same content; ``conflict``: its ``event_id`` is stored with
    other content, which stays unchanged. Only what the sender gave is compared, so that an event which is sent twice at
    once without a time is a duplicate too. Raises ValueError, without storing any event, if a label is not finite, a
    time has no zone or a text cannot be stored.
    """
    for event in events:
        _check_label(event)
    received = utcnow(now)
    timed = _with_times(session, events, received)
    first: dict[_Key, NewEvent] = {}
    index_of: dict[_Key, int] = {}
    for index, event in enumerate(timed):
        first.setdefault(_key(event), event)
        index_of.setdefault(_key(event), index)
    # In a fixed order, so that two senders of the same events cannot deadlock.
    sorted_events = [first[key] for key in sorted(first)]
    inserted_keys = _insert_missing(session, sorted_events, received)
    present = _read_events(session, [_key(event) for event in sorted_events if _key(event) not in inserted_keys])
    outcomes: list[Outcome] = []
    for index, event in enumerate(events):
        inserted = _key(event) in inserted_keys
        reference = first[_key(event)] if inserted else present[_key(event)]
        if inserted and index_of[_key(event)] == index:
            outcomes.append("new")
        else:
            outcomes.append("duplicate" if _repeats(event, reference) else "conflict")
    return outcomes


def support_events(
    session: Session, kind: str, entity: str, limit: int, before: datetime | None = None
) -> list[EventRecord]:
    """Return the newest ``limit`` events of an entity, oldest first; ties by event id. ``before`` is exclusive."""
    if limit < 1:
        return []
    query = select(EventRecord).where(EventRecord.kind == kind, EventRecord.entity == entity)
    if before is not None:
        query = query.where(EventRecord.time < before)
    newest = query.order_by(EventRecord.time.desc(), EventRecord.event_id.desc()).limit(limit)
    return list(session.scalars(newest).all())[::-1]


def count_events(session: Session, kind: str, entity: str) -> int:
    """Return the number of stored events of an entity."""
    query = select(func.count()).select_from(EventRecord).where(EventRecord.kind == kind, EventRecord.entity == entity)
    return session.scalar(query) or 0


def _check_label(event: NewEvent) -> None:
    if not math.isfinite(event.label):
        raise ValueError(f"the label of event '{event.event_id}' is not a finite number")


def _with_times(session: Session, events: Sequence[NewEvent], now: datetime) -> list[NewEvent]:
    """Fill in the times that senders left out: an event sent again is then a duplicate, and no conflict."""
    rows = _read_events(session, [_key(event) for event in events if event.time is None])
    times = {key: row.time for key, row in rows.items()}
    return [e if e.time is not None else replace(e, time=times.get(_key(e), now)) for e in events]


def _key(event: NewEvent | EventRecord) -> _Key:
    return event.kind, event.event_id


def _repeats(event: NewEvent, stored: NewEvent | EventRecord) -> bool:
    """Return True where everything that the sender gave of an event is what is stored."""
    same = (event.entity, event.item, event.context or None) == (stored.entity, stored.item, stored.context or None)
    same_label = not event.label_given or float(event.label) == float(stored.label)
    return same and same_label and event.time in (None, stored.time)


def _insert_missing(session: Session, events: Sequence[NewEvent], received: datetime) -> set[_Key]:
    """Insert the events whose key is not stored yet; return the inserted keys."""
    statement = (
        insert_into(session, EventRecord)
        .on_conflict_do_nothing(index_elements=["kind", "event_id"])
        .returning(EventRecord.kind, EventRecord.event_id)
    )
    inserted_keys: set[_Key] = set()
    for chunk in in_chunks(events):
        rows = [{**_columns(event), "received": received} for event in chunk]
        inserted_keys |= {(kind, event_id) for kind, event_id in session.execute(statement, rows)}
    return inserted_keys


def _columns(event: NewEvent) -> dict[str, Any]:
    columns = asdict(event)
    del columns["label_given"]
    return columns


def _read_events(session: Session, keys: Sequence[_Key]) -> dict[_Key, EventRecord]:
    """Return the events with these keys, those that another transaction has committed meanwhile included."""
    rows: dict[_Key, EventRecord] = {}
    for chunk in in_chunks(unique(keys)):
        query = select(EventRecord).where(tuple_(EventRecord.kind, EventRecord.event_id).in_(chunk))
        rows |= {_key(row): row for row in session.scalars(query.execution_options(populate_existing=True))}
    return rows
