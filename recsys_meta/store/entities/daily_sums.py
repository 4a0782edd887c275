"""Sums of days that are over: what the views of outcomes and of adaptations say of such a day is kept.

A view computes the days in `unsummed_days` from their rows and takes all others from what is kept, so it says the same
whether or not a day was summed, only sooner. Triggers put a day back there whenever one of its rows comes or goes; of
outcomes on PostgreSQL a few deleted rows, those of an erased entity, are taken out of the sums instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime

from sqlalchemy import Select, column, delete, insert, select, table, text
from sqlalchemy.orm import Session

from recsys_meta.store.database.base import Base
from recsys_meta.store.database.bulk_insert import table_of
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.entities.tables import AdaptationDayRecord, OutcomeDayRecord, UnsummedDayRecord

_KEPT: Mapping[str, tuple[str, type[Base]]] = {
    "outcomes": ("outcome_sums", OutcomeDayRecord),
    "adaptations": ("adaptation_daily", AdaptationDayRecord),
}


def sum_next_day(session: Session, now: datetime | None = None) -> tuple[str, date] | None:
    """Sum the oldest day before today (UTC) whose rows changed; return source and day, None where there is none.

    Writers of rows of that day wait until the transaction ends, so it should hold nothing else. A day that another
    process sums at the time is left to that one.
    """
    days = UnsummedDayRecord
    past = select(days.source, days.day).where(days.day < utcnow(now).astimezone(UTC).date())
    oldest = past.order_by(days.day, days.source).limit(1).with_for_update(skip_locked=True)
    row = session.execute(oldest).first()
    if row is None:
        return None
    source, day = row
    view, record = _KEPT[source]
    kept = table_of(record)
    names = [one.name for one in kept.columns if one.name != "id"]
    session.execute(delete(kept).where(kept.c.day == day))
    session.execute(insert(kept).from_select(names, _figures(view, names, day)))
    session.execute(delete(table_of(days)).where(days.source == source, days.day == day))
    _analyze(session, kept.name, days.__tablename__)
    return source, day


def _analyze(session: Session, *tables: str) -> None:
    """Count tables for PostgreSQL's planner, which autovacuum leaves alone while they are small.

    It would plan the views for as many unsummed days as there once were, and compile that plan, for seconds.
    """
    if session.get_bind().dialect.name == "postgresql":
        for name in tables:
            session.execute(text(f"ANALYZE {name}"))


def _figures(view: str, names: list[str], day: date) -> Select[tuple[object, ...]]:
    """Select what a view says of a day that is not summed."""
    rows = table(view, *(column(name) for name in names))
    day_column = OutcomeDayRecord.day.type
    return select(*rows.c).where(column("day", day_column) == day)
