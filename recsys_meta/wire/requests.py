"""Bodies of requests. Unknown fields are refused, and every list and text is bounded."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from recsys_meta.core.limits import CURSOR_LENGTH, ID_LENGTH, MOST_ARMS
from recsys_meta.wire.base import RequestModel
from recsys_meta.wire.field_types import (
    ArmLabel,
    Context,
    EntityId,
    EventLabel,
    Features,
    Flag,
    ItemId,
    ItemKey,
    Kind,
    Label,
    Latitude,
    Longitude,
    ModelRef,
    SplitSalt,
    Text,
    Time,
    Values,
    VersionRef,
)

MOST_EVENTS = 1000
"""Events of a request."""

MOST_ITEMS = 10_000
"""Items of a list of candidates, of exclusions, or of items to score."""

MOST_N = 1000
"""Items of a list that is asked for."""

MOST_ROWS = 2000
"""Rows to score."""

MOST_HISTORY = 100
"""Items of an actor's history."""

MOST_ENTITIES = 200
"""Entities that are ranked for one row."""


class EntityInput(RequestModel):
    """The entity of a request. Without an id nothing stored is looked up, and nothing can be stored."""

    kind: Kind | None = Field(default=None, description="the kind that the model is for, where left out")
    id: EntityId | None = None
    features: Features = Field(default_factory=dict)


class SupportEvent(RequestModel):
    """An interaction of the entity of a request. Without a label it means "it happened"; the order is free."""

    event_id: Text | None = None
    item: ItemId
    label: EventLabel | None = Field(
        default=None, description='in a ranking 0 means "not for me", and so do low labels'
    )
    time: Time | None = Field(default=None, description="without a time it counts as the latest")
    context: Context | None = None


class Event(SupportEvent):
    """An interaction to be stored. Without `event_id` its content stands for it; without `time` it is now."""

    kind: Kind | None = Field(default=None, description="needed where several kinds of newcomers are served")
    entity: EntityId


# A list ends at its first wrong value: to name each costs as much as a thousand right requests.
Events = Annotated[list[SupportEvent], Field(max_length=MOST_EVENTS, fail_fast=True)]
Items = Annotated[list[ItemId], Field(max_length=MOST_ITEMS, fail_fast=True)]


class ItemWithFeatures(RequestModel):
    """An item with its features, for models whose entities have items of their own."""

    item: ItemId
    features: Features = Field(default_factory=dict)


def _one_list_error(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """Put one message in place of the errors of both forms of a list of items."""
    try:
        return handler(value)
    except ValidationError as error:
        # Those about the form with features say most; the names of our types are not the caller's.
        ours = ItemWithFeatures.__name__
        errors = [e for e in error.errors(include_url=False, include_context=False) if ours in str(e["loc"])]
        path = [p for p in errors[-1]["loc"] if isinstance(p, int) or str(p).isidentifier()] if errors else []
        where = "".join(f"{p}: " for p in path if p not in ("str", ours))
        reason = errors[-1]["msg"].partition(" or instance")[0] if errors else "a list is expected"
        raise ValueError(
            f'{where}{reason}; an item is a text, or an object {{"item": "x", "features": {{}}}}'
        ) from None


# Plain ids come first, so that a list of these alone is read without trying the form with features.
_Mixed = Annotated[ItemId | ItemWithFeatures, Field(union_mode="left_to_right")]
_Past = Annotated[list[ItemId], Field(max_length=MOST_HISTORY, fail_fast=True)]
_MixedPast = Annotated[list[_Mixed], Field(max_length=MOST_HISTORY, fail_fast=True)]
_MixedItems = Annotated[list[_Mixed], Field(max_length=MOST_ITEMS, fail_fast=True)]
Candidates = Annotated[Items | _MixedItems, Field(union_mode="left_to_right"), WrapValidator(_one_list_error)]
History = Annotated[_Past | _MixedPast, Field(union_mode="left_to_right"), WrapValidator(_one_list_error)]


class QueryContextInput(RequestModel):
    """The context of a list: time, place and actor. Without `history` it is that of `actor` in the entity's events."""

    context: Context = Field(default_factory=dict)
    actor: Text | None = None
    lat: Latitude | None = None
    lon: Longitude | None = None
    history: History | None = Field(default=None, description="items the actor met, the last one last")

    @model_validator(mode="after")
    def _check_coordinates(self) -> Self:
        if (self.lat is None) != (self.lon is None):
            raise ValueError("lat and lon go together")
        return self


class Filter(RequestModel):
    """A condition on a feature of items: `any`, `all` or `none` of some values; a number of at least `min`, at most
    `max`. An item whose number is missing is left out."""

    any: Values | None = None
    all: Values = Field(default_factory=list)
    none: Values = Field(default_factory=list)
    min: Label | None = None
    max: Label | None = None

    @model_validator(mode="after")
    def _check_conditions(self) -> Self:
        if self.any is None and not self.all and not self.none and self.min is None and self.max is None:
            raise ValueError("a filter needs any, all or none (values), or min or max (numbers)")
        return self


class FreshOptions(RequestModel):
    """Places for new items with few events, drawn by Thompson sampling: at most `slots` of a list, or a `share` of the
    places of all lists, for items that came after the training and have fewer than `events` likes. The same seed draws
    the same."""

    slots: Annotated[int, Field(strict=True, ge=0, le=MOST_N)] | None = None
    share: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] | None = None
    events: Annotated[int, Field(strict=True, ge=1, le=10**9)] = 20
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**53)] | None = None

    @model_validator(mode="after")
    def _check_form(self) -> Self:
        if (self.slots is None) == (self.share is None):
            raise ValueError("fresh needs slots or share, one of them")
        return self


class RecommendationRequest(RequestModel):
    """Request of a list for an entity. Its events are merged with those stored under the entity's id."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"entity": {"kind": "user"}, "events": [{"item": "50"}, {"item": "181"}, {"item": "172"}], "n": 10}
            ]
        },
    )

    model: ModelRef | None = Field(
        default=None, description="name, or name@version; may be left out where one model fits"
    )
    entity: EntityInput = Field(default_factory=EntityInput)
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
    moment: QueryContextInput | None = Field(default=None, description="for models whose rows have a context or actors")
    filters: Annotated[dict[Annotated[str, Field(max_length=ID_LENGTH)], Filter], Field(max_length=20)] = Field(
        default_factory=dict, description="by features of items: all must be fulfilled"
    )
    cursor: Annotated[str, Field(max_length=CURSOR_LENGTH, pattern=r"^[A-Za-z0-9_=-]*$")] | None = Field(
        default=None, description="`next` of the page before, with the rest of the request as it was"
    )
    explain: Flag = Field(default=False, description="whether to name the events that moved each item")
    fresh: FreshOptions | None = Field(
        default=None,
        description="places for items with few events; left out: those of RECSYS_META_FRESH; null: none",
    )

    @model_validator(mode="after")
    def _check_pages(self) -> Self:
        if self.fresh is not None and self.cursor is not None:
            raise ValueError("a list with fresh items has no further pages: leave out cursor")
        return self


class ScoringRow(RequestModel):
    """An item in a context, to be scored."""

    item: ItemId
    context: Context = Field(default_factory=dict)


class CandidateEntity(RequestModel):
    """One of several entities to be ranked."""

    id: EntityId | None = None
    features: Features = Field(default_factory=dict)
    events: Events = Field(default_factory=list)


class ExplorationOptions(RequestModel):
    """Order of entities by one draw from the distribution of their scores. The same seed draws the same."""

    seed: Annotated[int, Field(strict=True, ge=0, lt=2**53)] | None = None


class ScoreRequest(RequestModel):
    """Request of the scores of items, plain or as rows with a context, for an entity; or of the ranking of several
    `entities` for one `row`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"entity": {"kind": "user"}, "events": [{"item": "50"}], "items": ["181"]}]},
    )

    model: ModelRef | None = None
    entity: EntityInput = Field(default_factory=EntityInput)
    events: Events = Field(default_factory=list)
    items: Items = Field(default_factory=list)
    rows: Annotated[list[ScoringRow], Field(max_length=MOST_ROWS, fail_fast=True)] = Field(default_factory=list)
    entities: Annotated[list[CandidateEntity], Field(max_length=MOST_ENTITIES, fail_fast=True)] = Field(
        default_factory=list
    )
    row: ScoringRow | None = None
    explore: ExplorationOptions | None = Field(
        default=None, description="order entities by Thompson sampling, for clicks"
    )

    @model_validator(mode="after")
    def _check_form(self) -> Self:
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


class AdaptRequest(RequestModel):
    """Request to adapt to an entity. `persist` stores its features and events; it needs the scope write and an id."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"entity": {"kind": "user"}, "events": [{"item": "50"}, {"item": "181"}]}]},
    )

    model: ModelRef | None = None
    entity: EntityInput = Field(default_factory=EntityInput)
    events: Events = Field(default_factory=list)
    persist: Flag = False


class EventBatch(RequestModel):
    """Events of any entities. Each is validated by itself: a wrong one does not keep the others out."""

    model_config = ConfigDict(json_schema_extra={"x-item-schema": "Event"})

    events: Annotated[list[Any], Field(min_length=1, max_length=MOST_EVENTS)]


class EntityBody(RequestModel):
    """Features of an entity; they replace those it had."""

    features: Features


ItemTitle = Annotated[Text, Field(description="shown in lists")]
_Available = Annotated[Flag, Field(description="whether lists may hold it")]


class ItemBody(RequestModel):
    """Content of an item; it replaces what was stored."""

    features: Features = Field(default_factory=dict)
    title: ItemTitle | None = None
    available: _Available = True


class ItemInput(ItemBody):
    """An item to be stored."""

    id: ItemKey


class ItemBatch(RequestModel):
    """Items of one kind. Each is validated by itself: a wrong one does not keep the others out."""

    model_config = ConfigDict(json_schema_extra={"x-item-schema": "ItemInput"})

    kind: Kind | None = Field(default=None, description="needed where several kinds of newcomers are served")
    items: Annotated[list[Any], Field(min_length=1, max_length=MOST_EVENTS)]


class ItemAvailability(RequestModel):
    """Availability of an item: whether lists may hold it."""

    available: _Available


class PromotionRequest(RequestModel):
    """A registered version, or the start of one that no other version shares."""

    version: VersionRef


class EmptyRequest(RequestModel):
    """An empty object. It is there because a body of type application/json is what no foreign web page can send."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})


class RollbackRequest(EmptyRequest):
    """An empty object. It is there because a body of type application/json is what no foreign web page can send."""


class SplitShare(RequestModel):
    """A version's part in a split: entities in proportion to its weight. Without a label its version is one."""

    version: VersionRef
    weight: Annotated[float, Field(strict=True, gt=0, le=1e9, allow_inf_nan=False)]
    label: ArmLabel | None = None


class SplitBody(RequestModel):
    """Versions that answer side by side. Without a salt the one before stays, where only weights change."""

    arms: Annotated[list[SplitShare], Field(min_length=1, max_length=MOST_ARMS, fail_fast=True)]
    salt: SplitSalt | None = None
