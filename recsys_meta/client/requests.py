"""What the API is sent, by the names that its OpenAPI document has for them. The API judges values; types are judged
here, so that a misspelt field fails before it travels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

Cell = str | bool | int | float | None


class Body(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Newcomer(Body):
    """Whom a call is about."""

    kind: str | None = None
    id: str | None = None
    features: Mapping[str, Cell | Sequence[Cell]] = {}


class SupportEvent(Body):
    """An interaction of the newcomer of a call. `time` is seconds since 1970, or a time with a zone."""

    event_id: str | None = None
    item: str
    label: float | None = None
    time: float | datetime | None = None
    context: Mapping[str, Cell] | None = None


class Event(SupportEvent):
    """An interaction to be stored."""

    kind: str | None = None
    entity: str


class Told(Body):
    """An item with what is known of it."""

    item: str
    features: Mapping[str, Cell | Sequence[Cell]] = {}


class Moment(Body):
    """When, where and by whom a list is asked for."""

    context: Mapping[str, Cell] = {}
    actor: str | None = None
    lat: float | None = None
    lon: float | None = None
    history: Sequence[str | Told] | None = None


class Filter(Body):
    """What the values of one item feature must be: any or all or none of these, or between `min` and `max`."""

    any: Sequence[str] | None = None
    all: Sequence[str] = ()
    none: Sequence[str] = ()
    min: float | None = None
    max: float | None = None


class RecommendationRequest(Body):
    """Who wants a list, and which."""

    model: str | None = None
    entity: Newcomer | None = None
    events: Sequence[SupportEvent] = ()
    n: int = 10
    candidates: Sequence[str | Told] | None = None
    exclude: Sequence[str] = ()
    include_seen: bool | None = None
    filters: Mapping[str, Filter] = {}
    moment: Moment | None = None
    cursor: str | None = None
    explain: bool = False


class Row(Body):
    """An item in a context, to be scored."""

    item: str
    context: Mapping[str, Cell] = {}


class Member(Body):
    """One of several newcomers to be ranked."""

    id: str | None = None
    features: Mapping[str, Cell | Sequence[Cell]] = {}
    events: Sequence[SupportEvent] = ()


class Explore(Body):
    """Order entities by one draw of what their scores may be."""

    seed: int | None = None


class ScoreRequest(Body):
    """Whom to score items for, and which; or which of several entities fits a row."""

    model: str | None = None
    entity: Newcomer | None = None
    events: Sequence[SupportEvent] = ()
    items: Sequence[str] = ()
    rows: Sequence[Row] = ()
    entities: Sequence[Member] = ()
    row: Row | None = None
    explore: Explore | None = None


class AdaptRequest(Body):
    """Whom to adapt to."""

    model: str | None = None
    entity: Newcomer | None = None
    events: Sequence[SupportEvent] = ()
    persist: bool = False


class EventBatch(Body):
    """Events of any entities."""

    events: Sequence[Event]


class EntityBody(Body):
    """Features of an entity; they replace those it had."""

    features: Mapping[str, Cell | Sequence[Cell]]


class Promotion(Body):
    """A registered version, or the start of one."""

    version: str


class Share(Body):
    """A version's part in a split."""

    version: str
    weight: float
    label: str | None = None


class SplitBody(Body):
    """Versions that answer side by side."""

    arms: Sequence[Share]
    salt: str | None = None


def given(body: Body) -> dict[str, Any]:
    """The JSON of a body: what was given, and not what was left out."""
    return body.model_dump(mode="json", exclude_unset=True)
