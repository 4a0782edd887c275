"""Tables of entities: features, events, adaptations, impressions, outcomes, explorations, results of evaluations and
receipts of erasures.

Events are the source of truth and have no foreign keys: feedback is stored even where its entity, item or model is
not known yet.
"""

from datetime import date, datetime
from typing import Any

from sqlalchemy import Date, Index
from sqlalchemy.orm import Mapped, mapped_column

from recsys_meta.core.limits import LABEL_LENGTH, NAME_LENGTH
from recsys_meta.store.database.base import Base
from recsys_meta.store.database.column_types import BoundedText, JsonDocument


class EntityRecord(Base):
    """Features of an entity."""

    __tablename__ = "entities"

    kind: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH), primary_key=True)
    external_id: Mapped[str] = mapped_column(primary_key=True)
    features: Mapped[dict[str, Any]]
    created: Mapped[datetime]
    updated: Mapped[datetime]


class EventRecord(Base):
    """One interaction of an entity. ``context`` holds the row's other fields, where it has any."""

    __tablename__ = "events"
    __table_args__ = (
        Index(None, "kind", "entity", "time", "event_id"),
        Index(None, "kind", "received"),
        Index(None, "kind", "item", "received"),
    )

    kind: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH), primary_key=True)
    event_id: Mapped[str] = mapped_column(primary_key=True)
    entity: Mapped[str]
    item: Mapped[str]
    label: Mapped[float]
    time: Mapped[datetime]
    context: Mapped[dict[str, Any] | None]
    received: Mapped[datetime]


class AdaptationRecord(Base):
    """One adaptation of an entity: losses on its support before and after, and its duration in milliseconds.

    A row may also stand for several `answers` that needed no adaptation, to the same entity at about the same time;
    `ms` is their mean then. `variant` is the label of the split's arm that answered, NULL where no split was active.
    """

    __tablename__ = "adaptations"
    __table_args__ = (
        Index(None, "created", "id"),
        Index(None, "kind", "entity", "created"),
        Index(None, "model_version", "created"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model_version: Mapped[str]
    kind: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    entity: Mapped[str]
    support_size: Mapped[int]
    steps: Mapped[int]
    loss_before: Mapped[float | None]
    loss_after: Mapped[float | None]
    gradient_norm: Mapped[float | None]
    ms: Mapped[float]
    served_by: Mapped[str] = mapped_column(BoundedText(20))
    created: Mapped[datetime]
    answers: Mapped[int] = mapped_column(server_default="1")
    variant: Mapped[str | None] = mapped_column(BoundedText(LABEL_LENGTH))


class ImpressionRecord(Base):
    """A list that was shown: raw `items` in their order, of which the first has rank `first_rank`.

    A row may also stand for several `answers` with the same list at about the same time. `entity` is empty where none
    was named. `propensity` is the probability with which the list was shown, given the request and the version: 1
    where nothing was drawn; `sample_rate` the share of entities whose lists are kept.
    """

    __tablename__ = "impressions"
    __table_args__ = (
        Index(None, "created", "id"),
        Index(None, "kind", "entity", "created"),
        Index(None, "model_version", "created"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    model: Mapped[str]
    model_version: Mapped[str]
    variant: Mapped[str | None] = mapped_column(BoundedText(LABEL_LENGTH))
    kind: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    entity: Mapped[str]
    served_by: Mapped[str] = mapped_column(BoundedText(20))
    support_size: Mapped[int]
    first_rank: Mapped[int]
    items: Mapped[list[str]] = mapped_column(JsonDocument())
    propensity: Mapped[float]
    sample_rate: Mapped[float]
    answers: Mapped[int]
    created: Mapped[datetime]


class OutcomeRecord(Base):
    """Outcome of an event: its place in the list shown before it, and its loss under the state before it.

    Hits are 1 or 0, NULL where no list was shown within the window or the event says that nothing was chosen; `rank` is
    NULL too where the list does not hold the item. `popular_hit_10`: whether a list by popularity would have held it.
    `loss`, `loss_unadapted`: of the event under the state of the `support_size` events before it, and under that of
    none. `created`: when the event arrived, `day`: the day of that in UTC, which the daily view finds by its index.
    """

    __tablename__ = "outcomes"
    __table_args__ = (
        Index(None, "created"),
        Index(None, "day"),
        Index(None, "kind", "entity", "created"),
        Index(None, "model", "created"),
        Index(None, "model", "model_version", "variant", "created"),
    )

    kind: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH), primary_key=True)
    event_id: Mapped[str] = mapped_column(primary_key=True)
    entity: Mapped[str]
    model: Mapped[str]
    model_version: Mapped[str]
    variant: Mapped[str | None] = mapped_column(BoundedText(LABEL_LENGTH))
    support_size: Mapped[int]
    impression: Mapped[int | None]
    rank: Mapped[int | None]
    hit_1: Mapped[float | None]
    hit_5: Mapped[float | None]
    hit_10: Mapped[float | None]
    reciprocal_rank: Mapped[float | None]
    popular_hit_10: Mapped[float | None]
    loss: Mapped[float | None]
    loss_unadapted: Mapped[float | None]
    created: Mapped[datetime]
    day: Mapped[date] = mapped_column(Date)


class UnsummedDayRecord(Base):
    """A day (UTC) of `source`, outcomes or adaptations, whose rows changed since it was summed. Triggers note it."""

    __tablename__ = "unsummed_days"

    source: Mapped[str] = mapped_column(BoundedText(20), primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)


class OutcomeDayRecord(Base):
    """Sums of outcomes of a day that was summed, a row of the view `outcome_sums`; it counts while the day is not in
    `unsummed_days`.

    `lists` answered a list, of `compared` is the rank by popularity known too, of `losses` the gain. Names of two parts
    are sums of products over entities, which the intervals need; `listed_entities` and `judged_entities` have any of
    `lists` and of `losses`. On PostgreSQL a trigger takes deleted outcomes out of the sums.
    """

    __tablename__ = "outcome_days"
    __table_args__ = (Index(None, "day"), Index(None, "model", "day"))

    id: Mapped[int] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(Date)
    model: Mapped[str]
    model_version: Mapped[str]
    variant: Mapped[str | None] = mapped_column(BoundedText(LABEL_LENGTH))
    kind: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    support_size: Mapped[int]
    events: Mapped[int]
    entities: Mapped[int]
    listed_entities: Mapped[int]
    judged_entities: Mapped[int]
    lists: Mapped[float]
    hits_1: Mapped[float]
    hits_5: Mapped[float]
    hits: Mapped[float]
    reciprocal_ranks: Mapped[float]
    popular_hits: Mapped[float]
    compared_hits: Mapped[float]
    compared: Mapped[float]
    hits_hits: Mapped[float]
    hits_lists: Mapped[float]
    lists_lists: Mapped[float]
    losses: Mapped[float]
    loss: Mapped[float]
    loss_unadapted: Mapped[float]
    gain: Mapped[float]
    gain_gain: Mapped[float]
    gain_losses: Mapped[float]
    losses_losses: Mapped[float]


class AdaptationDayRecord(Base):
    """A row of the view `adaptation_daily` of a day that was summed; it counts while the day is not in
    `unsummed_days`."""

    __tablename__ = "adaptation_days"
    __table_args__ = (Index(None, "day"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(Date)
    model_version: Mapped[str]
    variant: Mapped[str | None] = mapped_column(BoundedText(LABEL_LENGTH))
    kind: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    served_by: Mapped[str] = mapped_column(BoundedText(20))
    adaptations: Mapped[int]
    entities: Mapped[int]
    support_size: Mapped[float | None]
    loss_before: Mapped[float | None]
    loss_after: Mapped[float | None]
    improved: Mapped[float | None]
    gradient_norm: Mapped[float | None]
    ms: Mapped[float | None]
    slowest_ms: Mapped[float | None]


class NewcomerResultRecord(Base):
    """Result of one newcomer at one point of an evaluation: a random sample of them, and those adapting helped least.

    `gain` is how much better the value is than without adapting, above 0 whatever the metric; `place` counts from the
    least gain of the point and seed. Averages are over the rows that are `is_random`: the others were kept because
    their gain is low.
    """

    __tablename__ = "newcomer_results"
    __table_args__ = (
        Index(None, "dataset", "created"),
        Index(None, "created"),
        Index(None, "kind", "entity"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset: Mapped[str]
    scenario: Mapped[str]
    method: Mapped[str]
    seed: Mapped[int]
    kind: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    entity: Mapped[str]
    metric: Mapped[str]
    shots: Mapped[int]
    value: Mapped[float]
    value_unadapted: Mapped[float | None]
    value_baseline: Mapped[float | None]
    gain: Mapped[float | None]
    place: Mapped[int | None]
    is_random: Mapped[bool]
    support_size: Mapped[int]
    popularity: Mapped[float | None]
    features_known: Mapped[int]
    features: Mapped[dict[str, Any]]
    created: Mapped[datetime]


class ErasureRecord(Base):
    """Receipt of an erasure. It holds a digest of the entity instead of its id, which is erased too.

    ``confirmed`` is the time of the last request for it: no row created before then may be written afterwards.
    """

    __tablename__ = "erasures"
    __table_args__ = (Index(None, "entity_digest", "at"),)

    receipt: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH), primary_key=True)
    kind: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    entity_digest: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    entities: Mapped[int]
    events: Mapped[int]
    adaptations: Mapped[int]
    impressions: Mapped[int] = mapped_column(server_default="0")
    outcomes: Mapped[int] = mapped_column(server_default="0")
    at: Mapped[datetime]
    confirmed: Mapped[datetime]


class ExplorationRecord(Base):
    """A list that exploration changed: the entity put first, and the probability with which it was chosen."""

    __tablename__ = "explorations"
    __table_args__ = (Index(None, "created", "id"), Index(None, "kind", "entity", "created"))

    id: Mapped[int] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    model: Mapped[str]
    model_version: Mapped[str]
    kind: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    entity: Mapped[str]
    item: Mapped[str]
    candidates: Mapped[int]
    propensity: Mapped[float]
    seed: Mapped[int]
    created: Mapped[datetime]
