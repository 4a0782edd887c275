"""What the API answers, by the names that its OpenAPI document has for them. Fields of a newer API are kept as they
come."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ServedBy = Literal["adapted", "cache", "prior", "popular"]


class Form(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Version(Form):
    """The model version that answered."""

    name: str
    version: str


class Cause(Form):
    """An event, and by how much an item is higher for it."""

    item: str
    label: float
    context: dict[str, Any]
    moved: float


class Why(Form):
    """Where an item was before any event, and the events that moved it most."""

    prior: float
    events: list[Cause]


class Item(Form):
    """One item of a list. Scores compare items of one list only. `why` is there where it was asked for."""

    item: str
    score: float
    title: str | None
    rank: int
    why: Why | None = None


class Answer(Form):
    """What every answer about a newcomer says. `variant` is the arm of a split that answered, if one did; `missing`
    names what could not be reached."""

    request_id: str
    model: Version
    variant: str | None = None
    degraded: bool
    missing: list[str]
    support_size: int
    unknown_items: list[str]
    unknown_features: list[str] = []


class Recommendations(Answer):
    """A list, best first; `next` is the cursor of the page that follows, None at the end."""

    served_by: ServedBy
    items: list[Item]
    next: str | None


class Judgement(Form):
    """A score, None where there is none; for clicks with its probability and how sure the model is."""

    score: float | None
    probability: float | None = None
    low: float | None = None
    high: float | None = None


class Score(Judgement):
    """The score of one item."""

    item: str


class Scores(Answer):
    """Scores in the order asked for."""

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


class Explored(Form):
    """The seed of a draw, and how likely the entity that came first was to be first."""

    seed: int
    propensity: float


class RankedEntities(Answer):
    """Entities, best first; `explored` is there where it was asked for."""

    served_by: ServedBy
    objective: str
    entities: list[Ranked]
    explored: Explored | None = None


class Question(Form):
    """An item to ask about: what its answer is worth beside those before it, and how likely it is a positive one."""

    rank: int
    item: str
    title: str | None
    value: float
    chance: float


class Onboarding(Form):
    """What to ask a newcomer, the most informative first. `unit` is that of the values."""

    request_id: str
    model: Version
    variant: str | None = None
    degraded: bool
    missing: list[str]
    strategy: str
    unit: str
    support_size: int
    items: list[Question]


class Refusal(Form):
    """Why an event was not stored; `index` is its place in the body."""

    index: int
    event_id: str | None
    reason: str


class EventReceipt(Form):
    """What became of a batch of events."""

    request_id: str
    accepted: int
    duplicates: int
    refused: list[Refusal]
    degraded: bool
    missing: list[str]


class Adapted(Answer):
    """What adapting did: losses of the support before the first step and after the last."""

    steps: int
    loss_before: float | None
    loss_after: float | None
    gradient_norm: float | None
    ms: float
    persisted: EventReceipt | None


class StoredEvent(Form):
    """An event as stored; `time` in seconds since 1970 UTC."""

    event_id: str
    item: str
    label: float
    time: float
    context: dict[str, Any] | None


class AdaptationRow(Form):
    """One adaptation."""

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
    variant: str | None = None


class EntityDocument(Form):
    """All that is stored of an entity."""

    kind: str
    id: str
    features: dict[str, Any]
    created: datetime | None
    updated: datetime | None
    events: list[StoredEvent]
    events_total: int
    last_adaptation: AdaptationRow | None


class Receipt(Form):
    """What a deletion erased."""

    receipt: str
    kind: str
    entity: str
    entities: int
    events: int
    adaptations: int
    at: datetime
    cached: int


class ModelSummary(Form):
    """A model: the version that is live, and the one that the process which answered serves."""

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


class Models(Form):
    """All models."""

    items: list[ModelSummary]
    degraded: bool


class VersionRow(Form):
    """A version of a model."""

    version: str
    run: str | None
    metrics: dict[str, Any]
    created: datetime


class Move(Form):
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


class Arm(Form):
    """A version of a split, and its share of the entities, 0 to 1."""

    label: str
    version: str
    weight: float


class SplitChange(Form):
    """A change of a split; without arms it ended."""

    arms: list[Arm]
    salt: str
    actor: str | None
    at: datetime


class SplitDocument(Form):
    """Which versions of a model answer, and every change of that, newest first."""

    model: str
    live: str | None
    split: SplitChange | None
    history: list[SplitChange]


class Page(Form):
    """Some rows; `next` is the cursor of the page that follows, None at the end."""

    items: list[dict[str, Any]]
    next: str | None


class Check(Form):
    """How one dependency is."""

    ok: bool
    needed: bool
    detail: str | None


class Readiness(Form):
    """Whether requests can be answered, and how each dependency is."""

    status: Literal["ready", "degraded", "unready"]
    checks: dict[str, Check]


class FieldError(Form):
    """One thing wrong with a request, in which part of it, and where there (a JSON pointer)."""

    in_: str = Field("body", alias="in")
    pointer: str
    detail: str


class Problem(Form):
    """An error, after RFC 9457."""

    type: str = "about:blank"
    title: str = ""
    status: int
    detail: str = ""
    instance: str | None = None
    request_id: str | None = None
    errors: list[FieldError] | None = None
