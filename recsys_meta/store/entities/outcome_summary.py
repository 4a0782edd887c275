"""Summaries of outcomes of one model: how good its lists were, and what adapting was worth.

Each is over the newest outcomes, `MOST_OUTCOMES` at most, so that it takes as long however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Date, Double, Integer, String, Subquery, case, column, func, select, table
from sqlalchemy.orm import Session

from recsys_meta.store.entities.tables import OutcomeRecord

MOST_OUTCOMES = 20_000
"""Newest outcomes that a summary is over."""

_LEAST_EVENTS = 10  # for fewer there is no interval


class OutcomeSummary(NamedTuple):
    """Outcomes of a model: `lists` of the `events` answered a list; `hit_10` and `popular_hit_10` are over those of
    which both are known; `gain` is the mean fall of the loss of the next event, over those of which that is known."""

    events: int
    entities: int
    lists: int
    hit_10: float | None
    popular_hit_10: float | None
    gain: float | None
    first_day: date | None


class DayQuality(NamedTuple):
    """Outcomes of a day, as in `OutcomeSummary`."""

    day: date
    events: int
    hit_10: float | None
    popular_hit_10: float | None
    gain: float | None


class SupportGain(NamedTuple):
    """Mean gain of the events that followed `support_size` events of their entity, with its 95% interval: an entity
    has one such event of each size, so they are independent."""

    support_size: int
    events: int
    hit_10: float | None
    gain: float | None
    low: float | None
    high: float | None


class EntityGain(NamedTuple):
    """Mean gain of one entity's events."""

    kind: str
    entity: str
    events: int
    gain: float


def newest_model(session: Session) -> str | None:
    """Return the model of the newest outcome; None where there is none."""
    return session.scalar(select(OutcomeRecord.model).order_by(OutcomeRecord.created.desc()).limit(1))


def summarize_outcomes(session: Session, model: str) -> OutcomeSummary:
    """Return the summary of a model."""
    rows = _newest(model)
    entities = func.count(func.distinct(rows.c.entity))
    query = select(func.count(), entities, func.count(rows.c.hit_10), *_rates(rows), func.min(rows.c.day))
    return OutcomeSummary(*session.execute(query).one())


def quality_by_day(session: Session, model: str) -> list[DayQuality]:
    """Return the quality of each day that has outcomes, the oldest first."""
    rows = _newest(model)
    query = select(rows.c.day, func.count(), *_rates(rows)).group_by(rows.c.day).order_by(rows.c.day)
    return [DayQuality(*row) for row in session.execute(query)]


def gain_by_support_size(session: Session, model: str, most: int = 50) -> list[SupportGain]:
    """Return the gain of the `most` smallest support sizes."""
    rows = _newest(model)
    gain, size = rows.c.loss_unadapted - rows.c.loss, rows.c.support_size
    columns = func.count(gain), func.avg(rows.c.hit_10), func.avg(gain), func.avg(gain * gain)
    query = select(size, *columns).group_by(size).having(func.count(gain) > 0).order_by(size).limit(most)
    return [_with_interval(*row) for row in session.execute(query)]


def entities_not_helped(session: Session, model: str, limit: int = 20) -> list[EntityGain]:
    """Return entities of three events or more whose next events adapting foretold worse, the worst first."""
    rows = _newest(model)
    gain = func.avg(rows.c.loss_unadapted - rows.c.loss)
    query = (
        select(rows.c.kind, rows.c.entity, func.count(), gain.label("gain"))
        .where(rows.c.loss_unadapted.is_not(None), rows.c.loss.is_not(None), rows.c.support_size > 0)
        .group_by(rows.c.kind, rows.c.entity)
        .having(func.count() >= 3, gain < 0)
        .order_by(gain, rows.c.kind, rows.c.entity)
    )
    return [EntityGain(*row) for row in session.execute(query.limit(limit))]


def _newest(model: str) -> Subquery:
    table = OutcomeRecord
    newest = select(table).where(table.model == model).order_by(table.created.desc()).limit(MOST_OUTCOMES)
    return newest.subquery()


def _rates(rows: Subquery) -> Sequence[Any]:
    known = rows.c.hit_10 - rows.c.popular_hit_10
    rates = [func.avg(case((known.is_not(None), one))) for one in (rows.c.hit_10, rows.c.popular_hit_10)]
    return [*rates, func.avg(rows.c.loss_unadapted - rows.c.loss)]


def _with_interval(size: int, events: int, hit: float | None, mean: float, squares: float) -> SupportGain:
    if events < _LEAST_EVENTS:
        return SupportGain(size, events, hit, mean, None, None)
    margin = 1.96 * math.sqrt(max(squares - mean * mean, 0.0) / (events - 1))
    return SupportGain(size, events, hit, mean, mean - margin, mean + margin)


class OnlineQuality(NamedTuple):
    """A row of the view `online_quality`."""

    day: date
    model_version: str
    variant: str | None
    support_size: int
    events: int
    entities: int
    lists: int
    hit_10: float | None
    hit_10_low: float | None
    hit_10_high: float | None
    popular_hit_10: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None


_KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("model", "model_version", "variant"), String()),
    **dict.fromkeys(("events", "entities", "lists"), BigInteger()),
    "day": Date(),
    "support_size": Integer(),
}
_VIEW = table(
    "online_quality",
    *(column(name, _KINDS.get(name, Double())) for name in ("model", *OnlineQuality._fields)),
)


def online_quality(session: Session, model: str, limit: int = 100) -> list[OnlineQuality]:
    """Return the rows of the newest day of a model that has outcomes, by version, arm and support size."""
    outcomes = OutcomeRecord
    newest = select(outcomes.day).where(outcomes.model == model).order_by(outcomes.created.desc()).limit(1)
    columns = _VIEW.c
    query = select(*(columns[name] for name in OnlineQuality._fields)).where(
        columns.model == model, columns.day == session.scalar(newest)
    )
    order = columns.model_version, columns.variant, columns.support_size
    return [OnlineQuality(*row) for row in session.execute(query.order_by(*order).limit(limit))]
