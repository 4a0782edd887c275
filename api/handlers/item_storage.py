"""Items as callers send them: their kind, and batches of which wrong ones are refused."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from api.container import AppContainer
from api.handlers.event_ingestion import printable_text
from api.inference.model_registry import ModelRegistry
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import explain_errors
from recsys_meta.inference.requests.feature_check import check_features
from recsys_meta.inference.requests.item_kind import choose_item_kind
from recsys_meta.store.items.items import NewItem, describe_item, save_items
from recsys_meta.store.items.tables import ItemRecord
from recsys_meta.wire.requests import ItemBatch, ItemBody, ItemInput


def item_kind(registry: ModelRegistry, kind: str | None) -> str:
    """Return the kind of newcomer that items are for. Raises ConfigError as `choose_item_kind`."""
    return choose_item_kind([model.recommender.bundle.schema for model in registry.live.values()], kind)


def new_item(item: str, body: ItemBody) -> NewItem:
    """Return an item as it is stored."""
    return NewItem(item, body.features, body.title, body.available)


async def store_batch(container: AppContainer, body: ItemBatch, kind: str) -> dict[str, Any]:
    """Store those items of a batch that are right; return the receipt without the request's id."""
    items, refusals = _validate(body.items, container.registry, kind)
    write = partial(save_items, kind=kind, items=list(items.values()))
    outcomes = await container.database.write(write) if items else []
    results = refusals + [
        {"index": index, "id": items[index].item, "outcome": outcome, "reason": None}
        for index, outcome in zip(items, outcomes, strict=True)
    ]
    results.sort(key=lambda one: int(one["index"]))
    count = len(outcomes) - outcomes.count("unchanged")
    return {"kind": kind, "stored": count, "refused": len(refusals), "items": results}


def _validate(
    raw: Sequence[Any], registry: ModelRegistry, kind: str
) -> tuple[dict[int, NewItem], list[dict[str, Any]]]:
    """Check items; return those to store, by their index, and the results of the others."""
    items: dict[int, NewItem] = {}
    refusals: list[dict[str, Any]] = []
    for index, content in enumerate(raw):
        try:
            item = ItemInput.model_validate(content)
            check_features(registry.bundles_of(kind), "item", item.features)
            items[index] = new_item(item.id, item)
        except ValidationError as error:
            refusals.append(_refusal(index, content, explain_errors(error)))
        except DataError as error:
            refusals.append(_refusal(index, content, str(error)))
    return items, refusals


def _refusal(index: int, content: Any, reason: str) -> dict[str, Any]:
    item = content.get("id") if isinstance(content, dict) else None
    reason = reason.encode(errors="replace").decode()[:500]
    return {"index": index, "id": printable_text(item), "outcome": "refused", "reason": reason}


def item_document(row: ItemRecord, registry: ModelRegistry) -> dict[str, Any]:
    """Return an item as it is shown."""
    models = registry.of_kind(row.kind)
    return describe_item(row, [m.name for m in models if row.external_id in m.recommender.own_items])
