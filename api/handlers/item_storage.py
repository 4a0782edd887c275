"""Items as callers send them: their kind, the check of their features, batches of which wrong ones are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from api.container import AppContainer
from api.handlers.event_ingestion import printable_text
from api.http.problem_details import ProblemError
from api.inference.loaded_model import LoadedModel
from api.inference.model_registry import ModelRegistry
from recsys_meta.core.errors import DataError
from recsys_meta.core.feature_encoding import encode_raw
from recsys_meta.core.schema import explain_errors
from recsys_meta.store.items.items import NewItem, save_items
from recsys_meta.store.items.tables import ItemRecord
from recsys_meta.wire.requests import ItemBatch, ItemBody, ItemInput


def item_kind(registry: ModelRegistry, kind: str | None) -> str:
    """Return the kind of newcomer that items are for: the one that was given, or the only one in service. Raises
    ProblemError where there are several, and where every newcomer of the kind has items of its own."""
    kinds = sorted({model.kind for model in registry.live.values()})
    if kind is None and len(kinds) != 1:
        raise ProblemError(422, f"A kind is needed; models in service are for {', '.join(kinds) or 'no kind yet'}")
    kind = kind or kinds[0]
    models = registry.of_kind(kind)
    if models and all(model.recommender.bundle.schema.home is not None for model in models):
        raise ProblemError(
            422,
            f"Every {kind} has items of its own: they come with its events, or as `candidates` with features",
        )
    return kind


def check_item_features(registry: ModelRegistry, kind: str, features: Mapping[str, Any]) -> None:
    """Raise DataError for a feature that no model of the kind has, or none of them can read. One that only some can
    read is stored, since each model leaves out what it cannot read."""
    models = registry.of_kind(kind)
    names = {f.name for m in models for f in m.recommender.bundle.schema.item_features}
    unknown = sorted(set(features) - names)
    if models and unknown:
        raise DataError(
            "no model has such a feature of items",
            field=unknown[0],
            remedy=f"Known features: {', '.join(sorted(names)) or 'none'}",
        )
    for name, value in features.items():
        complaints = [_complaint(model, name, value) for model in models if _has_feature(model, name)]
        if complaints and None not in complaints:
            raise next(why for why in complaints if why is not None)


def _has_feature(model: LoadedModel, name: str) -> bool:
    return any(f.name == name for f in model.recommender.bundle.schema.item_features)


def _complaint(model: LoadedModel, name: str, value: Any) -> DataError | None:
    bundle = model.recommender.bundle
    fields = [f for f in bundle.schema.item_features if f.name == name]
    try:
        encode_raw(fields, bundle.vocab, "item", [{name: value}])
    except DataError as error:
        return error
    return None


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
            check_item_features(registry, kind, item.features)
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
    return {
        "kind": row.kind,
        "id": row.external_id,
        "features": row.features,
        "title": row.title,
        "available": row.available,
        "created": row.created,
        "updated": row.updated,
        "trained_by": [m.name for m in models if row.external_id in m.recommender.own_items],
    }
