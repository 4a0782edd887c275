"""Feature values that two items have in common: why they are alike, as far as features say it."""

from __future__ import annotations

from recsys_meta.core.types import FIRST
from recsys_meta.inference.recommender import Recommender


def shared_features(recommender: Recommender, first: int, second: int) -> dict[str, list[str]]:
    """Return the values that two items (ids) have both, by the name of the feature. Numbers and words of texts are left
    out: that they are equal says little."""
    schema, vocab, features = recommender.bundle.schema, recommender.bundle.vocab, recommender.catalog.features
    shared: dict[str, list[str]] = {}
    for field in schema.item_features:
        if field.kind not in ("categorical", "multi") or field.name not in features:
            continue
        rows = features[field.name]
        both = set(rows[first].tolist()) & set(rows[second].tolist())
        values = [vocab.value(f"item.{field.name}", value) for value in sorted(both) if value >= FIRST]
        if values:
            shared[field.name] = values
    return shared
