"""Popularity of items: counts, and log counts as logits."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST


def item_occurrences(item: Tensor, catalogue: int) -> Tensor:
    """Occurrences of each item, [C] float32; the two reserved ids count zero."""
    counts = torch.bincount(item, minlength=catalogue).float()
    counts[:FIRST] = 0
    return counts


def distinct_item_counts(entity: Tensor, item: Tensor, catalogue: int) -> Tensor:
    """Numbers of different items of the entities [R] that have rows, from the item of each row [R]."""
    pairs = torch.unique(entity * catalogue + item)
    counts = torch.bincount(pairs // catalogue)
    return counts[counts > 0]


def centred_log_popularity(counts: Tensor) -> Tensor:
    """log(1 + count) less its mean over the catalogue, [C]; the reserved ids have the level of an item never seen."""
    level = torch.log(counts + 1)
    return level - level[FIRST:].mean() if len(counts) > FIRST else level
