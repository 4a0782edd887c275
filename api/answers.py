"""Bodies of answers, for OpenAPI. Hot routes hand over bytes of this form without building these objects."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from api.models import ServedBy


class Version(BaseModel):
    """The model version that answered."""

    name: str
    version: str


class Item(BaseModel):
    """One item of a list. `score` compares items of one list only."""

    item: str
    score: float
    title: str | None
    rank: int


class Answer(BaseModel):
    """What every answer about a newcomer says. `missing` names what could not be reached."""

    request_id: str
    model: Version
    degraded: bool
    missing: list[Literal["database", "redis", "model"]]
    support_size: int
    unknown_items: list[str]


class Recommendations(Answer):
    """A list, best first."""

    served_by: ServedBy
    items: list[Item]


class Score(BaseModel):
    """The score of one item, None where the model does not have it."""

    item: str
    score: float | None


class Scores(Answer):
    """Scores in the order asked for: logits for rankings and clicks, label units for ratings."""

    served_by: ServedBy
    objective: str
    scores: list[Score]


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


class AdaptationRow(BaseModel):
    """One row of the table `adaptations`."""

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
    """One thing wrong with a request, and where (a JSON pointer)."""

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
