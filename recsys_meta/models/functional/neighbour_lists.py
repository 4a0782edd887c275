"""Lists of each item's strongest neighbours: item-item similarities of catalogues too large for an [M, M] matrix."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, FloatArray, IntArray, Params

BLOCK = 1_024
"""Items whose co-occurrences are counted at a time: bounds the memory."""
LOCAL_BLOCK = 256
"""Items whose systems of equations are solved at a time: with 100 neighbours each they take 20 MB."""
MOST_ITEMS = 20_000
"""Items that have lists from local regressions, the most popular ones: each takes a millisecond."""
LOCAL_NEIGHBOURS = 100
"""Neighbours of an item in a local regression: cost follows their square. On articles of citeulike-a (nDCG@10 at 1, 5
and 20 shots) 50 gave .174/.248/.292, 100 gave .179/.260/.309."""
SAMPLED = 256
"""Items of which co-occurrences are counted to know how many pairs there are."""
SEARCHED = 10
"""SciPy searches for an entry by bisection where it is asked for a tenth of all at once, else it walks through rows."""
BLOCK_CELLS = 10_000_000
"""Neighbours that are gathered at a time to be summed, 160 MB with their ids: long lists of many large supports would
take gigabytes."""
MOST_PAIRS = 100_000_000
"""Pairs of items whose co-occurrences are kept at once, about 800 MB."""


class NeighbourLists(NamedTuple):
    """Neighbours of M items: positions [M, N] int64 of other items, and a value [M, N] float32 of each.

    An item with fewer neighbours has values of 0, at whatever position.
    """

    neighbour: Tensor
    value: Tensor


def count_pairs(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Count the rows of a binary matrix [U, M] in which two items occur together, [M, M] float32, sparse.

    `affordable_items` says of how many items that is possible.
    """
    together = (matrix.T @ matrix).tocsr()
    together.sort_indices()
    return together


def cooccurring_items(
    matrix: sp.csr_matrix, counts: FloatArray, width: int, together: sp.csr_matrix | None = None
) -> NeighbourLists:
    """Find for each of M items the `width` others with the most co-occurrences per root of their counts [M].

    That is the order of cosines. Values are co-occurrences in the binary matrix [U, M]; `together` has those of all
    pairs where the caller has counted them. Items of about the same popularity, which have about as many neighbours,
    are looked at together, so that lists of co-occurrences are what is searched and no row of the catalogue's length.
    """
    catalogue = matrix.shape[1]
    width = min(width, catalogue)
    neighbour = torch.zeros(catalogue, width, dtype=torch.int64)
    cooccurrence = torch.zeros(catalogue, width)
    columns, scale = matrix.tocsc(), np.sqrt(np.maximum(counts, 1)).astype(np.float32)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    for items in (order[start : start + BLOCK] for start in range(0, len(order), BLOCK)):
        pairs = (columns[:, items].T @ matrix).tocsr() if together is None else together[items]
        ids, values = _padded_rows(pairs, items)
        best = torch.topk(values / torch.from_numpy(scale)[ids], min(width, ids.shape[1]), dim=1).indices
        rows = torch.from_numpy(items)
        neighbour[rows, : best.shape[1]] = ids.gather(1, best)
        cooccurrence[rows, : best.shape[1]] = values.gather(1, best)
    return NeighbourLists(neighbour, cooccurrence)


def local_ease(together: sp.csr_matrix, near: NeighbourLists, ridge: float) -> NeighbourLists:
    """Weights of EASE (Steck 2019) from each of M items to its neighbours, those with a value, all distinct.

    `together` [M, M] are the co-occurrences of `count_pairs`. Row i of P = (X'X + ridge I)^-1 is taken from the system
    of item i and its neighbours alone (as in Steck 2019b, "Markov random fields for collaborative filtering"), and
    divided by -P_jj, the P_jj of j's own system. With all other items as neighbours these are the weights of
    `item_similarity.ease_weights`.
    """
    neighbour, order = near.neighbour.sort(dim=1)  # so that one search after another ends close by
    members, present = neighbour.numpy(), (near.value.gather(1, order) > 0).double().numpy()
    items, width = members.shape
    inverse, diagonal = np.zeros(members.shape), np.ones(items)
    block = LOCAL_BLOCK + together.nnz // (SEARCHED * (width + 1) ** 2)
    for start in range(0, items, block):
        own = np.arange(start, min(start + block, items))
        column = _first_columns(together, np.concatenate([own[:, None], members[own]], axis=1), present[own], ridge)
        diagonal[own], inverse[own] = column[:, 0], column[:, 1:]
    return NeighbourLists(neighbour, torch.from_numpy((inverse / -diagonal[members]).astype(np.float32)))


def affordable_items(matrix: sp.csr_matrix) -> int:
    """Find how many of the most popular items of a matrix [U, C] have at most MOST_PAIRS pairs that occur together;
    MOST_ITEMS at most.

    Pairs are counted of SAMPLED items, evenly spread over popularity. The answer is exact to a few percent.
    """
    counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
    order = np.argsort(-counts, kind="stable")[: min(int((counts > 0).sum()), MOST_ITEMS)]
    columns = matrix.tocsc()

    def pairs_of(items: int) -> float:
        """Number of pairs, about, of so many items."""
        sample = order[np.linspace(0, items - 1, min(items, SAMPLED)).astype(np.int64)]
        together = columns[:, sample].T @ columns[:, order[:items]].tocsr()
        return float(together.nnz) * items / len(sample)

    low, high = int(min(MOST_PAIRS**0.5, len(order))), len(order)
    if low == high or pairs_of(high) <= MOST_PAIRS:
        return high
    while high - low > low // 20:
        middle = (low + high) // 2
        low, high = (middle, high) if pairs_of(middle) <= MOST_PAIRS else (low, middle)
    return low


def neighbour_table(items: Tensor, lists: NeighbourLists, catalogue: int) -> Params:
    """Lists of M covered items of a catalogue of C, by id: "row" [C] int64, "neighbour" [M + 1, N] int32 ids, "weight"
    [M + 1, N]. Row row[i] has the neighbours of item i, row 0 is that of items [M] that are not covered, with weights
    of 0."""
    row = torch.zeros(catalogue, dtype=torch.int64)
    row[items] = torch.arange(1, len(items) + 1)
    blank = torch.zeros(1, lists.neighbour.shape[1])
    return {
        "row": row,
        "neighbour": torch.cat([blank.int(), items[lists.neighbour].int()]),
        "weight": torch.cat([blank, lists.value]),
    }


def sum_neighbours(neighbour: Tensor, value: Tensor, position: Tensor, weight: Tensor, catalogue: int) -> Tensor:
    """Sum the lists at position [T, S] of neighbour ids and values [V, N] with weight or mask [T, S], into [T, C].

    The reserved ids score 0.
    """
    tasks, size = position.shape
    scores = value.new_zeros(tasks, catalogue)
    block = max(1, BLOCK_CELLS // max(size * neighbour.shape[1], 1))
    for start in range(0, tasks, block):
        part = slice(start, start + block)
        values = value[position[part]] * weight[part, :, None]
        scores[part].scatter_add_(1, neighbour[position[part]].long().flatten(1), values.flatten(1))
    scores[:, :FIRST] = 0
    return scores


def _first_columns(together: sp.csr_matrix, members: IntArray, present: FloatArray, ridge: float) -> FloatArray:
    """First column [B, 1 + N] of the inverse of the co-occurrences + ridge I of B items and their N neighbours, members
    [B, 1 + N], in double precision; 0 for a neighbour that is not present [B, N], which is 1 or 0."""
    size = members.shape[1]
    member = np.concatenate([np.ones((len(members), 1)), present], axis=1)
    counts = together[np.repeat(members, size, axis=1).ravel(), np.tile(members, (1, size)).ravel()]
    system = np.asarray(counts, np.float64).reshape(-1, size, size)
    system *= member[:, :, None] * member[:, None, :]
    system.reshape(len(system), -1)[:, :: size + 1] += ridge
    unit = torch.zeros(len(members), size, 1, dtype=torch.float64)
    unit[:, 0] = 1
    factor = torch.linalg.cholesky(torch.from_numpy(system))
    column: FloatArray = torch.cholesky_solve(unit, factor)[:, :, 0].numpy()
    return column


def _padded_rows(matrix: sp.csr_matrix, own: IntArray) -> tuple[Tensor, Tensor]:
    """Columns [n, W] int64 and values [n, W] of a sparse matrix [n, C], without the column `own` [n] of each row."""
    count = np.diff(matrix.indptr)
    row = np.repeat(np.arange(len(count)), count)
    at = row, np.arange(len(row)) - np.repeat(matrix.indptr[:-1], count)
    ids = np.zeros((len(count), max(1, int(count.max(initial=0)))), np.int64)
    values = np.zeros(ids.shape, np.float32)
    ids[at], values[at] = matrix.indices, matrix.data
    is_own = ids == own[:, None]
    ids[is_own] = values[is_own] = 0
    return torch.from_numpy(ids), torch.from_numpy(values)
