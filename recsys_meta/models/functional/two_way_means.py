"""Two-way means: labels as an overall mean plus terms of items and of entities, each shrunk toward 0."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST

SWEEPS = 5
"""Alternations between the terms of items and those of entities."""


def two_way_means(
    entity: Tensor,
    item: Tensor,
    label: Tensor,
    *,
    entities: int,
    catalogue: int,
    item_shrink: float,
    entity_shrink: float = 5.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit the mean [], item terms [C] and entity terms [E] of label [R] by alternation, so that an item whose raters
    are strict does not count as a bad one. entity and item [R] int64; the reserved ids have the term 0."""
    label = label.double()
    mean = label.mean() if len(label) else label.new_zeros(())
    items = label.new_zeros(catalogue)
    terms = label.new_zeros(entities)
    for _ in range(SWEEPS):
        items = _shrunken_means(label - mean - terms[entity], item, catalogue, item_shrink)
        items[:FIRST] = 0
        terms = _shrunken_means(label - mean - items[item], entity, entities, entity_shrink)
    return mean.float(), items.float(), terms.float()


def _shrunken_means(value: Tensor, group: Tensor, groups: int, shrink: float) -> Tensor:
    """Return the sum of value [R] in each group over (rows of the group + shrink), [groups]."""
    total = torch.bincount(group, value, minlength=groups)
    return total / (torch.bincount(group, minlength=groups) + shrink).clamp(min=1e-9)
