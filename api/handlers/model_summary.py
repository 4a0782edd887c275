"""Summaries of models: what the registry says of each, and what this process serves."""

from __future__ import annotations

from typing import Any

from api.container import AppContainer
from recsys_meta.store.database.engine import StoreUnavailable
from recsys_meta.store.model_registry import registry


async def list_summaries(container: AppContainer) -> tuple[list[dict[str, Any]], bool]:
    """Return a summary of every model, and whether it is current: without the database, of those in service only."""
    try:
        rows = await container.database.read(registry.page_models)
        return [model_summary(container, r.name, r.live, r.versions, r.created, r.updated) for r in rows], True
    except StoreUnavailable:
        names = sorted(container.registry.live)
        return [model_summary(container, name, None, None, None, None) for name in names], False


def model_summary(
    container: AppContainer, name: str, live: str | None, versions: int | None, created: Any, updated: Any
) -> dict[str, Any]:
    """Return what is known of a model by the registry and by the version that this process has loaded."""
    model = container.registry.live.get(name)
    bundle = model.recommender.bundle if model else None
    problem = f"popularity answers: {model.problem}" if model and model.sample is None else None
    return {
        "name": name,
        "live": live,
        "versions": versions,
        "created": created,
        "updated": updated,
        "loaded": model.version if model else None,
        "kind": model.kind if model else None,
        "objective": bundle.schema.objective if bundle else None,
        "predictor": bundle.predictor.name if bundle else None,
        "items": len(bundle.vocab.values["item"]) if bundle else None,
        "features": [f.name for f in bundle.schema.entity_features] if bundle else [],
        "default": model is not None and container.registry.defaults.get(model.kind) == name,
        "problem": container.registry.broken.get(name) or problem,
    }
