"""Exact top-k of many scores: best first, ties by position, and minus infinity never."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from torch import Tensor

from recsys_meta.core.types import FloatArray

MIN_PILES, MAX_PILES, PILE_SIZE = 64, 2048, 32
"""Piles that the scores of a row are dealt to: so many that each gets `PILE_SIZE` scores, within bounds."""

TopK = list[tuple[float, int]]
"""Scores and their positions, best first."""


def top_k(scores: Tensor, n: int) -> TopK:
    """Select the n best of scores [C]; fewer where fewer are above minus infinity."""
    return top_k_rows(scores[None], n)[0]


def top_k_rows(scores: Tensor, n: int) -> list[TopK]:
    """Select the n best of each row of scores [T, C]; fewer where fewer are above minus infinity."""
    n = min(n, scores.shape[1])
    if not n:
        return [[] for _ in scores]
    values = scores.numpy()
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
    bounds: FloatArray = np.maximum(np.partition(values, nth, axis=1)[:, nth], np.finfo(values.dtype).min)
    return bounds
