"""Bodies of responses about what is stored of an entity."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from recsys_meta.wire.base import ResponseModel, always_present
from recsys_meta.wire.field_types import ServedBy


class StoredEvent(ResponseModel):
    """An event as stored; `time` in seconds since 1970 UTC."""

    event_id: str
    item: str
    label: float
    time: float
    context: dict[str, Any] | None


class AdaptationRow(ResponseModel):
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
    variant: str | None = always_present(None)


class EntityDocument(ResponseModel):
    """All that is stored of an entity; `events` are the newest, oldest first, `events_total` counts all."""

    kind: str
    id: str
    features: dict[str, Any]
    created: datetime | None
    updated: datetime | None
    events: list[StoredEvent]
    events_total: int
    last_adaptation: AdaptationRow | None


class DeletionReceipt(ResponseModel):
    """Counts of the rows and cache keys that a deletion erased. `log_emptied` is false where a reader kept SQLite's
    write-ahead log, which still holds them: the server empties it as soon as it can."""

    receipt: str
    kind: str
    entity: str
    entities: int
    events: int
    adaptations: int
    impressions: int = always_present(0)
    outcomes: int = always_present(0)
    at: datetime
    cached: int
    log_emptied: bool = always_present(True)
