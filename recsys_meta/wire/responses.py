"""Bodies of responses about newcomers: the client reads them, and the OpenAPI document describes them.

The server builds none of these objects: its routes encode plain dictionaries, and tests hold these to the document.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import WithJsonSchema

from recsys_meta.wire.base import ResponseModel, always_present
from recsys_meta.wire.field_types import ServedBy

# Texts of a few values by the document; a newer server may have others.
Dependency = Annotated[str, WithJsonSchema({"enum": ["database", "redis", "model"], "type": "string"})]


class ModelVersion(ResponseModel):
    """The model version that answered."""

    name: str
    version: str


class EventContribution(ResponseModel):
    """An event, and by how much the item is higher for it: of clicks its logit, of ratings its rating, of rankings and
    choices its log-odds against all other items."""

    item: str
    label: float
    context: dict[str, Any]
    moved: float


class NewItemBasis(ResponseModel):
    """Basis on which an item is placed that the model was not trained on: its `content`, or the `popularity` of new
    items where none of its features says anything, and its first `likes`."""

    by: str
    likes: int


class ScoreExplanation(ResponseModel):
    """The item's score before any event, in the unit of `moved`, and the events that moved it most. `new` is present
    for an item that the model was not trained on."""

    prior: float
    events: list[EventContribution]
    new: NewItemBasis | None = None


class RecommendedItem(ResponseModel):
    """One item of a list. `score` compares items of one list only. `why` is present where the request has `explain`."""

    item: str
    score: float
    title: str | None
    rank: int
    why: ScoreExplanation | None = None


class EntityResponse(ResponseModel):
    """Base of responses about an entity. `variant` is the arm of a split that answered, if one did; `missing` names
    dependencies that could not be reached. The model does not have the `unknown_items`, and lacks a value of each of
    the `unknown_features`: either has no effect."""

    request_id: str
    model: ModelVersion
    variant: str | None = always_present(None)
    degraded: bool
    missing: list[Dependency]
    support_size: int
    unknown_items: list[str]
    unknown_features: list[str] = always_present([])


class DrawnItem(ResponseModel):
    """An item that was drawn for a place of a list, and the probability with which it was."""

    item: str
    propensity: float


class FreshItems(ResponseModel):
    """Items with few events that a list holds, and the seed of the draws."""

    seed: int
    items: list[DrawnItem]


class RecommendationResponse(EntityResponse):
    """A list, best first; `next` is the cursor of the page that follows, null at the end. `shortfall` says why it has
    fewer items than were asked for; `unknown_filter_values`, by feature, are values that the model never met.
    `fresh` is present where the request has it, and null where the model failed."""

    served_by: ServedBy
    unknown_filter_values: dict[str, list[str]] = always_present({})
    shortfall: str | None = always_present(None)
    items: list[RecommendedItem]
    next: str | None
    fresh: FreshItems | None = None


class OnboardingItem(ResponseModel):
    """An item worth asking about: `value` is what its answer adds, in `unit`; `chance` the probability of a yes:
    of a click, or that the newcomer has met the item."""

    rank: int
    item: str
    title: str | None
    value: float
    chance: float


class OnboardingResponse(ResponseModel):
    """Items to ask an entity about, the most informative first."""

    request_id: str
    model: ModelVersion
    variant: str | None = always_present(None)
    degraded: bool
    missing: list[str]
    strategy: str
    unit: str
    support_size: int
    items: list[OnboardingItem]


class RowScore(ResponseModel):
    """A score, None where there is none. For clicks it is a logit, with its probability. From a model that knows how
    sure it is there is a 95% interval: of the probability for clicks, of the expected rating for ratings."""

    score: float | None
    probability: float | None = None
    low: float | None = None
    high: float | None = None


class ItemScore(RowScore):
    """The score of one item, None where the model does not have it (but for clicks, whose rows have a context)."""

    item: str


class ScoreResponse(EntityResponse):
    """Scores in the order asked for: logits for rankings and clicks, label units for ratings."""

    served_by: ServedBy
    objective: str
    scores: list[ItemScore]


class RankedEntity(RowScore):
    """One of several entities for a row; `index` is its position in the body."""

    rank: int
    index: int
    id: str | None
    support_size: int
    served_by: ServedBy


class ExplorationDraw(ResponseModel):
    """The seed of the draw that entities are ordered by, and how likely the first of them was to be first."""

    seed: int
    propensity: float


class EntityRankingResponse(EntityResponse):
    """Entities, best first. `support_size` and `unknown_items` are those of all together. `explored` is present where
    the request has `explore`, and null where the model failed."""

    served_by: ServedBy
    objective: str
    entities: list[RankedEntity]
    explored: ExplorationDraw | None = None


class EventRejection(ResponseModel):
    """An event that was not stored, with the reason; `index` is its position in the body."""

    index: int
    event_id: str | None
    reason: str


EventOutcome = Literal["stored", "partly stored", "nothing new", "nothing stored"]
"""What became of a batch: all of it, or some, or none because it was stored before, or none because it was refused."""


class EventReceipt(ResponseModel):
    """Counts of a batch of events, and its `outcome` in a word. `duplicates` were stored before, with the same content;
    no model of their kind has the `unknown_items`, whose events are stored all the same."""

    request_id: str
    outcome: EventOutcome = always_present("stored")
    unknown_items: list[str] = always_present([])
    accepted: int
    duplicates: int
    refused: list[EventRejection]
    degraded: bool
    missing: list[str]


class AdaptationResponse(EntityResponse):
    """Figures of an adaptation. Losses are of the support, before the first step and after the last."""

    steps: int
    loss_before: float | None
    loss_after: float | None
    gradient_norm: float | None
    ms: float
    persisted: EventReceipt | None
