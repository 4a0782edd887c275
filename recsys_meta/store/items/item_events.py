"""First events of new items, as they are placed by: how many like each, and who did first."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from recsys_meta.store.database.bulk_insert import in_chunks
from recsys_meta.store.entities.tables import EventRecord, OutcomeRecord

RATE_EVENTS = 20_000
"""Newest events from which the rate of all is estimated."""


class ItemLikes(NamedTuple):
    """Number of events of an item that say it is liked, `events`, and the entities of the first ones."""

    events: int
    entities: tuple[str, ...]


def first_likes(
    session: Session, kind: str, items: Sequence[str], least_label: float, most: int
) -> dict[str, ItemLikes]:
    """Return the likes of items, events with at least a label, and the first `most` entities of each; items without any
    are left out."""
    likes: dict[str, ItemLikes] = {}
    for chunk in in_chunks(items):
        order = (EventRecord.received, EventRecord.event_id)
        number = func.row_number().over(partition_by=EventRecord.item, order_by=order)
        total = func.count().over(partition_by=EventRecord.item)
        events = select(EventRecord.item, EventRecord.entity, number.label("number"), total.label("total")).where(
            EventRecord.kind == kind, EventRecord.item.in_(chunk), EventRecord.label >= least_label
        )
        numbered = events.subquery()
        query = select(numbered).where(numbered.c.number <= most).order_by(numbered.c.item, numbered.c.number)
        for item, entity, _, count in session.execute(query):
            before = likes.get(item, ItemLikes(count, ()))
            likes[item] = ItemLikes(count, (*before.entities, entity))
    return likes


class ItemFate(NamedTuple):
    """The newest events of an item, `MOST_FATES` at most: how many, of how many entities, since when; of those that
    answered a list the share that it was among the first ten of."""

    events: int
    entities: int
    first: datetime | None
    lists: int
    hit_10: float | None


MOST_FATES = 1000
"""Events of an item that its fate is read from."""


def item_fate(session: Session, kind: str, item: str) -> ItemFate:
    """Return how an item fares."""
    own = EventRecord.kind == kind, EventRecord.item == item
    newest = select(EventRecord).where(*own).order_by(EventRecord.received.desc()).limit(MOST_FATES).subquery()
    same = (OutcomeRecord.kind == newest.c.kind) & (OutcomeRecord.event_id == newest.c.event_id)
    counts = func.count(), func.count(func.distinct(newest.c.entity)), func.min(newest.c.received)
    query = select(*counts, func.count(OutcomeRecord.hit_10), func.avg(OutcomeRecord.hit_10))
    return ItemFate(*session.execute(query.select_from(newest).outerjoin(OutcomeRecord, same)).one())


def items_with_events(session: Session, kind: str, since: datetime) -> set[str]:
    """Return the items of events that were stored at a time or later."""
    query = select(EventRecord.item).distinct().where(EventRecord.kind == kind, EventRecord.received >= since)
    return set(session.scalars(query))


def entities_with_events(session: Session, kind: str, since: datetime) -> set[str]:
    """Return the entities of events that were stored at a time or later."""
    query = select(EventRecord.entity).distinct().where(EventRecord.kind == kind, EventRecord.received >= since)
    return set(session.scalars(query))


def event_rate(session: Session, kind: str, now: datetime) -> float:
    """Estimate the events of a kind that are stored in a second, from the newest ones before `now`."""
    before = (EventRecord.kind == kind, EventRecord.received < now)
    newest = select(EventRecord.received).where(*before).order_by(EventRecord.received.desc())
    rows = newest.limit(RATE_EVENTS).subquery()
    count, first = session.execute(select(func.count(), func.min(rows.c.received))).one()
    if not count or first is None:
        return 0.0
    seconds: float = max((now - first).total_seconds(), 1.0)
    return float(count) / seconds
