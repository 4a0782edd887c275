"""Bodies of requests. Unknown fields are refused, and every list and text is bounded."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

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
    model_validator,
)

from recsys_meta.core.timestamps import parse_time
from recsys_meta.inference.ranking.list_cursor import LONGEST
from recsys_meta.store.database.base import ID, LABEL, NAME
from recsys_meta.store.model_registry.traffic_splits import MOST_ARMS

MOST_EVENTS = 1000
MOST_ITEMS = 10_000
MOST_N = 1000
MOST_ROWS = 2000
MOST_FEATURES = 200
MOST_CONTEXT = 50
MOST_HISTORY = 100
MOST_ENTITIES = 200


def _not_dots(given: str) -> str:
    """Clients shorten paths that end in dots, so such an entity could be stored but never be asked for."""
    if given in (".", ".."):
        raise ValueError("an id of dots alone cannot be part of a path")
    return given


def _read_time(given: Any) -> Any:
    """Seconds of a number or an ISO 8601 text with a time zone. Pydantic's own reading has another rule for units."""
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        return given
    return parse_time(given, zoned=True)


# Anything that can be seen: no control characters, no line or paragraph separators.
Text = Annotated[str, Field(min_length=1, max_length=ID, pattern=r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]+$")]
EntityId = Annotated[Text, AfterValidator(_not_dots)]
Kind = Annotated[str, Field(min_length=1, max_length=NAME, pattern=r"^[a-z][a-z0-9_\-]*$")]
ModelName = Annotated[str, Field(min_length=1, max_length=ID, pattern=r"^[A-Za-z0-9_.\-]+$")]
ModelRef = Annotated[str, Field(min_length=1, max_length=2 * ID, pattern=r"^[A-Za-z0-9_.\-]+(@[A-Za-z0-9]+)?$")]
# A whole number beyond 64 bits is read as a float: what JSON writers can write again.
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Cell = Annotated[str, Field(max_length=1000)] | bool | Whole | Annotated[float, Field(allow_inf_nan=False)] | None


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


def _one_word_complaint(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    try:
        return handler(value)
    except ValidationError:
        raise ValueError(
            "a context value is a text of at most 1000 characters, a finite number, true, false or null"
        ) from None


Context = Annotated[
    dict[Annotated[str, Field(max_length=ID)], Annotated[Cell, WrapValidator(_one_word_complaint)]],
    Field(
        max_length=MOST_CONTEXT,
        description="what the row was like, flat: fields of the model's context; where every entity has items of its "
        "own also `actor` and features of the item (lat, lon, category ...)",
    ),
]
Latitude = Annotated[float, Field(strict=True, ge=-90, le=90, description="degrees")]
Longitude = Annotated[float, Field(strict=True, ge=-180, le=180, description="degrees")]
Time = Annotated[
    float,
    Field(strict=True),
    BeforeValidator(_read_time),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "format": "date-time"}],
            "description": "seconds since 1970 UTC, or ISO 8601 with a time zone",
        }
    ),
]
Label = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]


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
    context: Context | None = None


class Event(SupportEvent):
    """An interaction to be stored. Without `event_id` its content stands for it; without `time` it is now."""

    kind: Kind | None = Field(default=None, description="needed where several kinds of newcomers are served")
    entity: EntityId


Events = Annotated[list[SupportEvent], Field(max_length=MOST_EVENTS)]
Items = Annotated[list[Text], Field(max_length=MOST_ITEMS)]


Values = Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=100)]


class Told(Body):
    """An item with what is known of it, for models whose entities have items of their own."""

    item: Text
    features: Features = Field(default_factory=dict)


def _one_list_complaint(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    try:
        return handler(value)
    except ValidationError as error:
        # Of the complaints about both forms of the list those about the mixed one, without its internal names.
        found = [e for e in error.errors(include_url=False, include_context=False) if "Told" in str(e["loc"])]
        places = [p for p in found[-1]["loc"] if isinstance(p, int) or str(p).isidentifier()] if found else []
        where = "".join(f"{p}: " for p in places if p not in ("str", "Told"))
        what = found[-1]["msg"].partition(" or instance")[0] if found else "a list is expected"
        raise ValueError(f'{where}{what}; an item is a text, or an object {{"item": "x", "features": {{}}}}') from None


# Plain names come first: they cost what they always did.
_Mixed = Annotated[Text | Told, Field(union_mode="left_to_right")]
_Past = Annotated[list[Text], Field(max_length=MOST_HISTORY)]
_MixedPast = Annotated[list[_Mixed], Field(max_length=MOST_HISTORY)]
_MixedItems = Annotated[list[_Mixed], Field(max_length=MOST_ITEMS)]
Candidates = Annotated[Items | _MixedItems, Field(union_mode="left_to_right"), WrapValidator(_one_list_complaint)]
History = Annotated[_Past | _MixedPast, Field(union_mode="left_to_right"), WrapValidator(_one_list_complaint)]


class Moment(Body):
    """When, where and by whom a list is asked for. Without `history` it is what the entity's events say of `actor`."""

    context: Context = Field(default_factory=dict)
    actor: Text | None = None
    lat: Latitude | None = None
    lon: Longitude | None = None
    history: History | None = Field(default=None, description="items the actor met, the last one last")

    @model_validator(mode="after")
    def _a_place_has_two(self) -> Self:
        if (self.lat is None) != (self.lon is None):
            raise ValueError("lat and lon go together")
        return self


class Filter(Body):
    """What a feature of items must be: of values `any`, `all`, `none` of some; of a number at least `min`, at most
    `max`. An item whose number is not known is left out."""

    any: Values | None = None
    all: Values = Field(default_factory=list)
    none: Values = Field(default_factory=list)
    min: Label | None = None
    max: Label | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.any is None and not self.all and not self.none and self.min is None and self.max is None:
            raise ValueError("a filter needs any, all or none (values), or min or max (numbers)")
        return self


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
    candidates: Candidates | None = Field(
        default=None, description="rank these items only; with features where the model may never have met them"
    )
    exclude: Items = Field(default_factory=list, description="leave these items out")
    include_seen: Flag | None = Field(
        default=None,
        description="whether items that were met may come again; left out: only where the model predicts choices",
    )
    moment: Moment | None = Field(default=None, description="for models whose rows have a context or actors")
    filters: Annotated[dict[Annotated[str, Field(max_length=ID)], Filter], Field(max_length=20)] = Field(
        default_factory=dict, description="by features of items: all must be fulfilled"
    )
    cursor: Annotated[str, Field(max_length=LONGEST, pattern=r"^[A-Za-z0-9_=-]*$")] | None = Field(
        default=None, description="`next` of the page before, with the rest of the request as it was"
    )
    explain: Flag = Field(default=False, description="whether to name the events that moved each item")


class Row(Body):
    """An item in a context, to be scored."""

    item: Text
    context: Context = Field(default_factory=dict)


class Member(Body):
    """One of several newcomers to be ranked."""

    id: EntityId | None = None
    features: Features = Field(default_factory=dict)
    events: Events = Field(default_factory=list)


class Explore(Body):
    """Order entities by one draw of what their scores may be. The same seed draws the same."""

    seed: Annotated[int, Field(strict=True, ge=0, lt=2**53)] | None = None


class ScoreRequest(Body):
    """Whom to score items for, and which items, plain or as rows with a context; or, the other way round, which of
    several `entities` fits one `row` best."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"entity": {"kind": "user"}, "events": [{"item": "50"}], "items": ["181"]}]},
    )

    model: ModelRef | None = None
    entity: Newcomer = Field(default_factory=Newcomer)
    events: Events = Field(default_factory=list)
    items: Items = Field(default_factory=list)
    rows: Annotated[list[Row], Field(max_length=MOST_ROWS)] = Field(default_factory=list)
    entities: Annotated[list[Member], Field(max_length=MOST_ENTITIES)] = Field(default_factory=list)
    row: Row | None = None
    explore: Explore | None = Field(default=None, description="order entities by Thompson sampling, for clicks")

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.explore is not None and not self.entities:
            raise ValueError("explore orders entities: it needs entities and a row")
        if self.entities or self.row is not None:
            if self.items or self.rows or self.events or self.entity.model_fields_set - {"kind"}:
                raise ValueError("entities and row ask which entity fits; items, rows, entity and events go without")
            if not (self.entities and self.row is not None):
                raise ValueError("entities are ranked for one row: both are needed")
        elif not (self.items or self.rows):
            raise ValueError("items or rows are needed, or entities and a row")
        return self


class AdaptRequest(Body):
    """Whom to adapt to. `persist` stores features and events given; it needs the scope write and an id."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"entity": {"kind": "user"}, "events": [{"item": "50"}, {"item": "181"}]}]},
    )

    model: ModelRef | None = None
    entity: Newcomer = Field(default_factory=Newcomer)
    events: Events = Field(default_factory=list)
    persist: Flag = False


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


class Share(Body):
    """A version's part in a split: entities in proportion to its weight. Without a label its version is one."""

    version: Annotated[str, Field(min_length=1, max_length=ID, pattern=r"^[A-Za-z0-9]+$")]
    weight: Annotated[float, Field(strict=True, gt=0, le=1e9, allow_inf_nan=False)]
    label: Annotated[str, Field(min_length=1, max_length=LABEL, pattern=r"^[A-Za-z0-9_.\-]+$")] | None = None


class SplitBody(Body):
    """Versions that answer side by side. Without a salt the one before stays, where only weights change."""

    arms: Annotated[list[Share], Field(min_length=1, max_length=MOST_ARMS)]
    salt: Annotated[str, Field(min_length=1, max_length=NAME, pattern=r"^[A-Za-z0-9_.\-]+$")] | None = None


ServedBy = Literal["adapted", "cache", "prior", "popular"]
