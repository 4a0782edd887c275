"""Bodies of answers, for OpenAPI. Hot routes hand over bytes of this form without building these objects."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from api.schemas.requests import ServedBy


class Version(BaseModel):
    """The model version that answered."""

    name: str
    version: str


class Cause(BaseModel):
    """An event, and by how much the item is higher for it: of clicks its logit, of ratings its rating, of rankings and
    choices its log-odds against all other items."""

    item: str
    label: float
    context: dict[str, Any]
    moved: float


class Why(BaseModel):
    """Where the item was before any event, in the unit of `moved`, and the events that moved it most."""

    prior: float
    events: list[Cause]


class Item(BaseModel):
    """One item of a list. `score` compares items of one list only. `why` is there where it was asked for."""

    item: str
    score: float
    title: str | None
    rank: int
    why: Why | None = None


class Answer(BaseModel):
    """What every answer about a newcomer says. `variant` is the arm of a split that answered, if one did; `missing`
    names what could not be reached. The model has no `unknown_items`, and lacks a value of each of `unknown_features`:
    either has no effect."""

    request_id: str
    model: Version
    variant: str | None
    degraded: bool
    missing: list[Literal["database", "redis", "model"]]
    support_size: int
    unknown_items: list[str]
    unknown_features: list[str]


class Recommendations(Answer):
    """A list, best first; `next` is the cursor of the page that follows, null at the end."""

    served_by: ServedBy
    items: list[Item]
    next: str | None


class Question(BaseModel):
    """An item worth asking about: `value` is what its answer adds, in `unit`; `chance` that a yes is to be expected
    (for ratings: that the newcomer knows the item)."""

    rank: int
    item: str
    title: str | None
    value: float
    chance: float


class Onboarding(BaseModel):
    """What to ask a newcomer, best first."""

    request_id: str
    model: Version
    variant: str | None
    degraded: bool
    missing: list[str]
    strategy: str
    unit: str
    support_size: int
    items: list[Question]


class Judgement(BaseModel):
    """A score, None where there is none. For clicks it is a logit, with its probability and, from a model that knows
    how sure it is, a 95% interval of the probability."""

    score: float | None
    probability: float | None = None
    low: float | None = None
    high: float | None = None


class Score(Judgement):
    """The score of one item, None where the model does not have it (but for clicks, whose rows have a context)."""

    item: str


class Scores(Answer):
    """Scores in the order asked for: logits for rankings and clicks, label units for ratings."""

    served_by: ServedBy
    objective: str
    scores: list[Score]


class Ranked(Judgement):
    """One of several entities for a row; `index` is its place in the body."""

    rank: int
    index: int
    id: str | None
    support_size: int
    served_by: ServedBy


class Explored(BaseModel):
    """The seed of the draw that entities are ordered by, and how likely the first of them was to be first."""

    seed: int
    propensity: float


class RankedEntities(Answer):
    """Entities, best first. `support_size` and `unknown_items` are those of all together. `explored` is there where it
    was asked for, and null where the model failed."""

    served_by: ServedBy
    objective: str
    entities: list[Ranked]
    explored: Explored | None = None


class Refusal(BaseModel):
    """Why an event was not stored; `index` is its place in the body."""

    index: int
    event_id: str | None
    reason: str


class EventReceipt(BaseModel):
    """What became of a batch. `duplicates` were stored before, with the same content."""

    request_id: str
    accepted: int
    duplicates: int
    refused: list[Refusal]
    degraded: bool
    missing: list[str]


class Adapted(Answer):
    """What adapting did. Losses are of the support, before the first step and after the last."""

    steps: int
    loss_before: float | None
    loss_after: float | None
    gradient_norm: float | None
    ms: float
    persisted: EventReceipt | None


class StoredEvent(BaseModel):
    """An event as stored; `time` in seconds since 1970 UTC."""

    event_id: str
    item: str
    label: float
    time: float
    context: dict[str, Any] | None


class AdaptationRow(BaseModel):
    """One row of the table `adaptations`: one adaptation, or `answers` that needed none, with their mean `ms`.
    `variant` is the arm of a split that answered, if one did."""

    id: int
    model_version: str
    kind: str
    entity: str
    support_size: int
    steps: int
    loss_before: float | None
    loss_after: float | None
    gradient_norm: float | None
    ms: float
    served_by: ServedBy
    created: datetime
    answers: int
    variant: str | None


class EntityDocument(BaseModel):
    """All that is stored of an entity; `events` are the newest, oldest first, `events_total` counts all."""

    kind: str
    id: str
    features: dict[str, Any]
    created: datetime | None
    updated: datetime | None
    events: list[StoredEvent]
    events_total: int
    last_adaptation: AdaptationRow | None


class Receipt(BaseModel):
    """What a deletion erased."""

    receipt: str
    kind: str
    entity: str
    entities: int
    events: int
    adaptations: int
    at: datetime
    cached: int


class ModelSummary(BaseModel):
    """A model. `loaded` is the version that this process serves; `problem` why it is not the live one."""

    name: str
    live: str | None
    versions: int | None
    created: datetime | None
    updated: datetime | None
    loaded: str | None
    kind: str | None
    objective: str | None
    predictor: str | None
    items: int | None
    features: list[str]
    problem: str | None


class Models(BaseModel):
    """All models."""

    items: list[ModelSummary]
    degraded: bool


class VersionRow(BaseModel):
    """A version of a model."""

    version: str
    run: str | None
    metrics: dict[str, Any]
    created: datetime


class Move(BaseModel):
    """A change of what is live."""

    model: str
    version: str
    previous: str | None
    action: str
    actor: str | None
    at: datetime


class ModelDocument(ModelSummary):
    """A model with its versions and the history of what was live, both newest first."""

    registered: list[VersionRow]
    history: list[Move]


class Arm(BaseModel):
    """A version of a split, and its share of the entities, 0 to 1."""

    label: str
    version: str
    weight: float


class SplitChange(BaseModel):
    """A change of a split; without arms it ended."""

    arms: list[Arm]
    salt: str
    actor: str | None
    at: datetime


class SplitDocument(BaseModel):
    """Which versions of a model answer, and every change of that, newest first. Without a split the live one does."""

    model: str
    live: str | None
    split: SplitChange | None
    history: list[SplitChange]


class Page(BaseModel):
    """Some rows; `next` is the cursor of the page that follows, null at the end."""

    items: list[dict[str, Any]]
    next: str | None


class Check(BaseModel):
    """How one dependency is."""

    ok: bool
    needed: bool
    detail: str | None


class Readiness(BaseModel):
    """Whether requests can be answered, and how each dependency is."""

    status: Literal["ready", "degraded", "unready"]
    checks: dict[str, Check]


class FieldError(BaseModel):
    """One thing wrong with a request, in which part of it, and where there (a JSON pointer)."""

    in_: Literal["body", "query", "path", "header"] = Field(alias="in")
    pointer: str
    detail: str


class ProblemDocument(BaseModel):
    """An error, after RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[FieldError] | None = None
