"""Exact top-k of many scores: best first, ties by position, and minus infinity never."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

BLOCK_SIZE = 512
"""Scores of which only the highest is looked at first."""

MIN_BLOCKED_SCORES = 32 * BLOCK_SIZE
"""Scores from which on blocks pay."""

MIN_PILES = 64
"""Piles that the scores of a row are dealt to, at least, where many rows are looked at."""

TopK = list[tuple[float, int]]
"""Scores and their positions, best first."""


def top_k(scores: Tensor, n: int) -> TopK:
    """Select the n best of scores [C]; fewer where fewer are above minus infinity."""
    n = min(n, len(scores))
    if len(scores) >= MIN_BLOCKED_SCORES and n <= len(scores) // BLOCK_SIZE:
        return _sort_positions(scores, _candidate_positions(scores, n), n) if n else []
    # One more than is asked for shows whether others tie with the last.
    values = scores.numpy()
    positions = np.argpartition(values, -n - 1)[-n - 1 :] if n < len(values) else np.arange(len(values))
    return _break_ties(scores, values[positions].tolist(), positions.tolist(), n)


def top_k_rows(scores: Tensor, n: int) -> list[TopK]:
    """Select the n best of each row of scores [T, C]; fewer where fewer are above minus infinity."""
    n = min(n, scores.shape[1])
    if not n:
        return [[] for _ in scores]
    values = scores.numpy()
    tasks, size = values.shape
    # In flat order, so by row and by position: a stable sort keeps ties that way.
    flat = np.flatnonzero(values >= _lower_bounds(values, n)[:, None])
    row, high = flat // size, values.reshape(-1)[flat]
    order = np.lexsort((-high, row))
    pairs = list(zip(high[order].tolist(), (flat - row * size)[order].tolist(), strict=True))
    ends = np.searchsorted(row, np.arange(tasks + 1)).tolist()
    return [pairs[a : min(a + n, b)] for a, b in pairwise(ends)]


def _lower_bounds(values: np.ndarray, n: int) -> np.ndarray:
    """Find numbers [T] above minus infinity that the n best of each row [C] are not below, near the worst of them.

    Items are dealt out to piles, as cards are: n piles have a highest one that is at least the n-th of all.
    """
    tasks, size = values.shape
    piles = max(MIN_PILES, 4 * n)
    deals = size // piles
    if deals > 1:
        values = values[:, : piles * deals].reshape(tasks, deals, piles).max(1)
    nth = values.shape[1] - n
    return np.maximum(np.partition(values, nth, axis=1)[:, nth], np.finfo(values.dtype).min)


def _break_ties(scores: Tensor, values: Sequence[float], positions: Sequence[int], n: int) -> TopK:
    """Select the n best, given somewhat more of the highest values and their positions."""
    pairs = sorted(zip(values, positions, strict=True), key=lambda pair: (-pair[0], pair[1]))
    if len(pairs) > n > 0 and pairs[n - 1][0] == pairs[n][0] > -math.inf:
        # Others may tie with the last one too, and positions decide between them.
        return _sort_positions(scores, (scores >= pairs[n][0]).nonzero()[:, 0], n)
    return [pair for pair in pairs[:n] if pair[0] > -math.inf]


def _sort_positions(scores: Tensor, positions: Tensor, n: int) -> TopK:
    """Select the n best of some positions, which are in ascending order."""
    values = scores[positions]
    order = torch.argsort(values, descending=True, stable=True)[:n]
    pairs = zip(values[order].tolist(), positions[order].tolist(), strict=True)
    return [pair for pair in pairs if pair[0] > -math.inf]


def _candidate_positions(scores: Tensor, n: int) -> Tensor:
    """Find the positions, ascending, of all scores that may be among the n best: n blocks have one that is at least
    the n-th of the blocks' highest, so nothing below that is."""
    whole = len(scores) // BLOCK_SIZE * BLOCK_SIZE
    blocks = scores[:whole].view(-1, BLOCK_SIZE)
    highest = blocks.amax(1)
    least = torch.topk(highest, n).values[-1]
    if least == -torch.inf:
        return (scores > least).nonzero()[:, 0]
    high = (highest >= least).nonzero()[:, 0]
    inside = (blocks[high].flatten() >= least).nonzero()[:, 0]
    positions = high[inside // BLOCK_SIZE] * BLOCK_SIZE + inside % BLOCK_SIZE
    return torch.cat([positions, whole + (scores[whole:] >= least).nonzero()[:, 0]])
