"""Bodies of requests. Unknown fields are refused, and every list and text is bounded."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

from recsys_meta.store.tables import ID, NAME

MOST_EVENTS = 1000
MOST_ITEMS = 10_000
MOST_N = 1000
MOST_FEATURES = 200


def _not_dots(given: str) -> str:
    """Clients shorten paths that end in dots, so such an entity could be stored but never be asked for."""
    if given in (".", ".."):
        raise ValueError("an id of dots alone cannot be part of a path")
    return given


def _read_time(given: Any) -> Any:
    """Seconds of an ISO 8601 text. Pydantic's own reading would take 1e12 for milliseconds, and be silently wrong."""
    if not isinstance(given, str):
        return given
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise ValueError("expected seconds since 1970 or ISO 8601") from None
    if moment.tzinfo is None:
        raise ValueError("a text needs a time zone, for example 2026-01-31T12:00:00Z")
    return moment.timestamp()


# Anything that can be seen: no control characters, no line or paragraph separators.
Text = Annotated[str, Field(min_length=1, max_length=ID, pattern=r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]+$")]
EntityId = Annotated[Text, AfterValidator(_not_dots)]
Kind = Annotated[str, Field(min_length=1, max_length=NAME, pattern=r"^[a-z][a-z0-9_\-]*$")]
ModelName = Annotated[str, Field(min_length=1, max_length=ID, pattern=r"^[A-Za-z0-9_.\-]+$")]
ModelRef = Annotated[str, Field(min_length=1, max_length=2 * ID, pattern=r"^[A-Za-z0-9_.\-]+(@[A-Za-z0-9]+)?$")]
Cell = Annotated[str, Field(max_length=1000)] | bool | int | Annotated[float, Field(allow_inf_nan=False)] | None


def _one_complaint(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    # Else the caller would read one error for each type of the union, at pointers that its document does not have.
    try:
        return handler(value)
    except ValidationError:
        raise ValueError(
            "a feature is a text of at most 1000 characters, a finite number, true, false, null, "
            "or a list of at most 100 of these"
        ) from None


Feature = Annotated[Cell | Annotated[list[Cell], Field(max_length=100)], WrapValidator(_one_complaint)]
Features = Annotated[
    dict[Annotated[str, Field(max_length=ID)], Feature],
    Field(max_length=MOST_FEATURES, description="raw feature values by name; lists for features of several values"),
]
Seconds = Annotated[float, Field(strict=True, ge=0, le=253_402_300_799, allow_inf_nan=False)]
Time = Annotated[
    Seconds,
    BeforeValidator(_read_time),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "format": "date-time"}],
            "description": "seconds since 1970 UTC, or ISO 8601 with a time zone",
        }
    ),
]
Label = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Body(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(extra="forbid")


class Newcomer(Body):
    """Whom the call is about. Without an id nothing stored is looked up and nothing can be kept."""

    kind: Kind | None = Field(default=None, description="the kind that the model is for, where left out")
    id: EntityId | None = None
    features: Features = Field(default_factory=dict)


class SupportEvent(Body):
    """An interaction of the newcomer of the call. Without a label it means "it happened"; the order is free."""

    event_id: Text | None = None
    item: Text
    label: Label | None = None
    time: Time | None = Field(default=None, description="without a time it counts as the latest")


class Event(SupportEvent):
    """An interaction to be stored. Without `event_id` its content stands for it; without `time` it is now."""

    kind: Kind | None = Field(default=None, description="needed where several kinds of newcomers are served")
    entity: EntityId


Events = Annotated[list[SupportEvent], Field(max_length=MOST_EVENTS)]
Items = Annotated[list[Text], Field(max_length=MOST_ITEMS)]


class RecommendationRequest(Body):
    """Who wants a list, and which. Events given here are joined with those stored under the entity's id."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"entity": {"kind": "user"}, "events": [{"item": "50"}, {"item": "181"}, {"item": "172"}], "n": 10}
            ]
        },
    )

    model: ModelRef | None = Field(
        default=None, description="name, or name@version; may be left out where one model fits"
    )
    entity: Newcomer = Field(default_factory=Newcomer)
    events: Events = Field(default_factory=list)
    n: Annotated[int, Field(strict=True, ge=1, le=MOST_N)] = 10
    candidates: Items | None = Field(default=None, description="rank these items only")
    exclude: Items = Field(default_factory=list, description="leave these items out")
    include_seen: bool = Field(default=False, description="whether items that the newcomer has met may come again")


class ScoreRequest(Body):
    """Whom to score items for, and which items."""

    model: ModelRef | None = None
    entity: Newcomer = Field(default_factory=Newcomer)
    events: Events = Field(default_factory=list)
    items: Annotated[list[Text], Field(min_length=1, max_length=MOST_ITEMS)]


class AdaptRequest(Body):
    """Whom to adapt to. `persist` stores features and events given; it needs the scope write and an id."""

    model: ModelRef | None = None
    entity: Newcomer = Field(default_factory=Newcomer)
    events: Events = Field(default_factory=list)
    persist: bool = False


class EventBatch(Body):
    """Events of any entities. Each is judged by itself: a wrong one does not keep the others out."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"x-item-schema": "Event"})

    events: Annotated[list[Any], Field(min_length=1, max_length=MOST_EVENTS)]


class EntityBody(Body):
    """Features of an entity; they replace those it had."""

    features: Features


class Promotion(Body):
    """A registered version, or the start of one that no other version shares."""

    version: Annotated[str, Field(min_length=1, max_length=ID, pattern=r"^[A-Za-z0-9]+$")]


ServedBy = Literal["adapted", "cache", "prior", "popular"]
