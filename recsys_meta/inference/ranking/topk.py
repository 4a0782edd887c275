"""Exact top-k of many scores: best first, ties by position, and minus infinity never."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import numpy as np
from torch import Tensor

from recsys_meta.core.types import FloatArray

LEAST = np.finfo(np.float32).min
"""The lowest score above minus infinity."""

MIN_PILES, MAX_PILES, PILE_SIZE = 64, 2048, 32
"""Piles that the scores of a row are dealt to: so many that each gets `PILE_SIZE` scores, within bounds."""

TopK = list[tuple[float, int]]
"""Scores and their positions, best first."""


def top_k(scores: Tensor, n: int) -> TopK:
    """Select the n best of scores [C]; fewer where fewer are above minus infinity."""
    return top_k_array(scores.numpy(), n)


def top_k_array(values: FloatArray, n: int, skip: Collection[int] = ()) -> TopK:
    """Select what `top_k` selects from an array [C], but for the positions to `skip`.

    Instead of scores without them, for which all would be copied, somewhat more of the best are looked at.
    """
    n = min(n, len(values))
    if not n:
        return []
    reach = min(n + len(skip), len(values))
    position = (values >= lower_bounds(values[None], reach)).nonzero()[0]
    if skip:
        is_allowed = np.ones(len(position), np.bool_)
        place = {p: i for i, p in enumerate(position.tolist())}
        is_allowed[[place[b] for b in skip if b in place]] = False
        position = position[is_allowed]
    high = values[position]
    order = np.argsort(-high, kind="stable")[:n]
    return list(zip(high[order].tolist(), position[order].tolist(), strict=True))


def top_k_rows(scores: Tensor, n: int) -> list[TopK]:
    """Select the n best of each row of scores [T, C]; fewer where fewer are above minus infinity."""
    n = min(n, scores.shape[1])
    values = scores.numpy()
    if not n or len(values) == 1:
        return [top_k_array(row, n) for row in values]
    tasks, size = values.shape
    # In flat order, so by row and by position: a stable sort keeps ties that way.
    flat = np.flatnonzero(values >= lower_bounds(values, n)[:, None])
    row, high = flat // size, values.reshape(-1)[flat]
    order = np.lexsort((-high, row))
    pairs = list(zip(high[order].tolist(), (flat - row * size)[order].tolist(), strict=True))
    ends = np.searchsorted(row, np.arange(tasks + 1)).tolist()
    return [pairs[a : min(a + n, b)] for a, b in pairwise(ends)]


def lower_bounds(values: FloatArray, n: int) -> FloatArray:
    """Find numbers [T] above minus infinity that the n best of each row [C] are not below, near the worst of them.

    Items are dealt out to piles, as cards are: n piles have a highest one that is at least the n-th of all.
    """
    tasks, size = values.shape
    piles = max(MIN_PILES, 4 * n, min(MAX_PILES, size // PILE_SIZE))
    deals = size // piles
    if deals > 1:
        values = values[:, : piles * deals].reshape(tasks, deals, piles).max(1)
    nth = values.shape[1] - n
    bounds: FloatArray = np.maximum(np.partition(values, nth, axis=1)[:, nth], LEAST)
    return bounds
