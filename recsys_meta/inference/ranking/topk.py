"""The n best of many scores, exactly: best first, ties by place, and minus infinity never."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

BLOCK = 512
"""Scores of which only the highest is looked at first."""

MANY = 32 * BLOCK
"""Scores from which on that pays."""

PILES = 64
"""Into so many piles scores are dealt, at least, where many rows are looked at."""

Best = list[tuple[float, int]]
"""Scores and their places."""


def top_k(scores: Tensor, n: int) -> Best:
    """The n best of scores [C]; fewer where fewer are above minus infinity."""
    n = min(n, len(scores))
    if len(scores) >= MANY and n <= len(scores) // BLOCK:
        return _sorted(scores, _of_blocks(scores, n), n) if n else []
    # One more than is asked for shows whether others tie with the last.
    values = scores.numpy()
    places = np.argpartition(values, -n - 1)[-n - 1 :] if n < len(values) else np.arange(len(values))
    return _decided(scores, values[places].tolist(), places.tolist(), n)


def top_k_rows(scores: Tensor, n: int) -> list[Best]:
    """The same for each row of scores [T, C]."""
    n = min(n, scores.shape[1])
    if not n:
        return [[] for _ in scores]
    values = scores.numpy()
    tasks, size = values.shape
    # In flat order, so by row and by place: a stable sort keeps ties that way.
    flat = np.flatnonzero(values >= _least_of_each(values, n)[:, None])
    row, found = flat // size, values.reshape(-1)[flat]
    order = np.lexsort((-found, row))
    pairs = list(zip(found[order].tolist(), (flat - row * size)[order].tolist(), strict=True))
    ends = np.searchsorted(row, np.arange(tasks + 1)).tolist()
    return [pairs[a : min(a + n, b)] for a, b in pairwise(ends)]


def _least_of_each(values: np.ndarray, n: int) -> np.ndarray:
    """Numbers [T] above minus infinity that the n best of each row [C] are not below, near the worst of them.

    Items are dealt out to piles, as cards are: n piles have a highest one that is at least the n-th of all.
    """
    tasks, size = values.shape
    piles = max(PILES, 4 * n)
    deals = size // piles
    if deals > 1:
        values = values[:, : piles * deals].reshape(tasks, deals, piles).max(1)
    place = values.shape[1] - n
    return np.maximum(np.partition(values, place, axis=1)[:, place], np.finfo(values.dtype).min)


def _decided(scores: Tensor, values: Sequence[float], places: Sequence[int], n: int) -> Best:
    """The n best, given some more of the highest values."""
    found = sorted(zip(values, places, strict=True), key=lambda one: (-one[0], one[1]))
    if len(found) > n > 0 and found[n - 1][0] == found[n][0] > -math.inf:
        # Others may tie with the last one too, and places decide between them.
        return _sorted(scores, (scores >= found[n][0]).nonzero()[:, 0], n)
    return [one for one in found[:n] if one[0] > -math.inf]


def _sorted(scores: Tensor, places: Tensor, n: int) -> Best:
    """The n best of places in order."""
    values = scores[places]
    order = torch.argsort(values, descending=True, stable=True)[:n]
    found = zip(values[order].tolist(), places[order].tolist(), strict=True)
    return [one for one in found if one[0] > -math.inf]


def _of_blocks(scores: Tensor, n: int) -> Tensor:
    """Places, in order, of all scores that may be among the n best: n blocks have one that is at least the n-th of the
    blocks' highest, so nothing below that is."""
    whole = len(scores) // BLOCK * BLOCK
    blocks = scores[:whole].view(-1, BLOCK)
    highest = blocks.amax(1)
    least = torch.topk(highest, n).values[-1]
    if least == -torch.inf:
        return (scores > least).nonzero()[:, 0]
    chosen = (highest >= least).nonzero()[:, 0]
    inside = (blocks[chosen].flatten() >= least).nonzero()[:, 0]
    there = chosen[inside // BLOCK] * BLOCK + inside % BLOCK
    return torch.cat([there, whole + (scores[whole:] >= least).nonzero()[:, 0]])
