"""Bodies of responses about items that are stored, and items that are alike."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from recsys_meta.wire.base import ResponseModel
from recsys_meta.wire.responses import ModelVersion


class ItemDocument(ResponseModel):
    """All that is stored of an item. `trained_by` names the models in service that were trained on it; the others place
    it by its features and first events."""

    kind: str
    id: str
    features: dict[str, Any]
    title: str | None
    available: bool
    created: datetime
    updated: datetime
    trained_by: list[str]


class ItemPage(ResponseModel):
    """Items, those that were changed last first; `next` is the cursor of the page that follows, null at the end."""

    items: list[ItemDocument]
    next: str | None


class ItemResult(ResponseModel):
    """Outcome of one item of a batch; `index` is its position in the body, `reason` why it was refused."""

    index: int
    id: str | None
    outcome: Literal["new", "changed", "unchanged", "refused"]
    reason: str | None


class ItemReceipt(ResponseModel):
    """Outcomes of the items of a batch, in their order; `stored` counts those that are new or changed."""

    request_id: str
    kind: str
    stored: int
    refused: int
    items: list[ItemResult]


class ItemDeletion(ResponseModel):
    """Receipt of a deletion: False where there was no such item."""

    kind: str
    id: str
    deleted: bool


class SimilarItem(ResponseModel):
    """An item that entities like as they like another one: `similarity` is the cosine of what entities think of both
    beyond what all think of them, -1 to 1; `shared` are features that both have, and values of these."""

    rank: int
    item: str
    title: str | None
    similarity: float
    shared: dict[str, list[str]]


class SimilarItems(ResponseModel):
    """Items like another one, the most similar first."""

    request_id: str
    model: ModelVersion
    item: str
    items: list[SimilarItem]
