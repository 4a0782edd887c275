"""Groups of well-known items to begin with, and what a person reads of an item: its values in a few words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys_meta.core.schema import FeatureField
from recsys_meta.core.types import FIRST
from recsys_meta.inference.ranking.topk import top_k
from recsys_meta.inference.recommender import Recommender

_FEWEST_GROUPS = 3
_MOST_VALUES = 4
"""Values that are told of an item."""


@dataclass(frozen=True)
class ItemGroup:
    """The most popular items (ids) of a value of a feature."""

    name: str
    items: tuple[int, ...]


def popular_groups(recommender: Recommender, groups: int = 6, size: int = 4) -> list[ItemGroup]:
    """Select the most common values of the first feature of items that has three at least, with popular items of each;
    no item is in two groups, and those of few values come first. Empty where items have no such feature."""
    for field in recommender.bundle.schema.item_features:
        values = recommender.catalog.features.get(field.name)
        if values is not None and field.kind in ("categorical", "multi") and field.name != _home(recommender):
            found = _groups_of(recommender, field, values, groups, size)
            if len(found) >= _FEWEST_GROUPS:
                return found
    return []


def describe_item(recommender: Recommender, item: int) -> str:
    """List the values of an item (its id) in the order of the schema; numbers and words of texts are left out."""
    vocab, words = recommender.bundle.vocab, list[str]()
    for field in recommender.bundle.schema.item_features:
        values = recommender.catalog.features.get(field.name)
        if values is None or field.kind not in ("categorical", "multi") or field.name == _home(recommender):
            continue
        words += [vocab.value(f"item.{field.name}", v) for v in values[item].tolist() if v >= FIRST]
    return ", ".join(words[:_MOST_VALUES])


def allowed_popularity(recommender: Recommender) -> Tensor:
    """Popularity scores [C] of the items that a list may hold, minus infinity for the others."""
    scores = recommender.catalog.popularity_scores.clone()
    scores[:FIRST] = -torch.inf
    scores[recommender.catalog.hidden_ids] = -torch.inf
    return scores


def _home(recommender: Recommender) -> str | None:
    return recommender.bundle.schema.home


def _groups_of(
    recommender: Recommender, field: FeatureField, values: Tensor, groups: int, size: int
) -> list[ItemGroup]:
    popularity = allowed_popularity(recommender)
    used = torch.isinf(popularity)
    counts = torch.bincount(values[~used].flatten())
    common = [v for v in torch.argsort(counts, descending=True, stable=True).tolist() if v >= FIRST and counts[v]]
    # Of two items that are as popular the one of fewer values says more about its group.
    clear = popularity / (values >= FIRST).sum(1).clamp(min=1)
    found = []
    for value in common[:groups]:
        score = clear.masked_fill(used | ~(values == value).any(1), -torch.inf)
        items = [item for _, item in top_k(score, size)]
        used[items] = True
        if items:
            found.append(ItemGroup(recommender.bundle.vocab.value(f"item.{field.name}", value), tuple(items)))
    return found
