"""Memories of the past entities' rows: which items are met together.

Item-item memories are of two kinds: `cosine`, the cosine of two items' columns (ItemKNN), and `ease`, the closed-form
ridge weights of Steck (2019). Each item keeps the neighbours of largest weight, so that a memory is two tables [V, N]
for V covered items, and scoring a support of S rows gathers and scatters S x N numbers. Of more than MAX_DENSE_ITEMS
items no [V, V] matrix is made (`neighbour_lists`).

The third memory is a Gaussian: past entities' weights in the leading subspace of their rows, the prior of a linear
model whose posterior is solved for each new entity (`memory_logits.posterior_weights`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, FloatArray, IntArray, Interactions, Params
from recsys_meta.models.functional.gaussian_posterior import fit_gaussian
from recsys_meta.models.functional.item_similarity import (
    MAX_DENSE_ITEMS,
    binary_matrix,
    cooccurrence_counts,
    ease_weights,
    most_frequent_items,
    normalize_cooccurrence,
)
from recsys_meta.models.functional.linear_algebra import truncated_svd
from recsys_meta.models.functional.neighbour_lists import (
    LOCAL_NEIGHBOURS,
    NeighbourLists,
    affordable_items,
    cooccurring_items,
    count_pairs,
    local_ease,
    neighbour_table,
    sum_neighbours,
)

ItemMemoryKind = Literal["cosine", "ease"]
BLOCK = 1024
"""Rows of a weight matrix that are partitioned at a time: bounds the memory."""


@dataclass(frozen=True)
class CoveredRows:
    """Rows of past entities on the items that item-item memories cover, the most popular ones: binary matrix
    [entities, V] and the padded ids [V] of its columns."""

    matrix: sp.csr_matrix
    items: IntArray
    catalogue: int

    @classmethod
    def of_rows(cls, entity: Tensor, item: Tensor, catalogue: int) -> Self:
        """Build the matrix from rows (entity [R], item [R])."""
        rows, items = entity.cpu().numpy(), item.cpu().numpy()
        keep = items >= FIRST
        matrix = binary_matrix(rows[keep], items[keep], (int(rows.max(initial=-1)) + 1, catalogue))
        counts = np.bincount(items[keep], minlength=catalogue)
        columns, _ = most_frequent_items(counts, affordable_items(matrix))
        return cls(matrix[:, columns].tocsr(), columns, catalogue)

    @property
    def is_large(self) -> bool:
        """True where no [V, V] matrix is made."""
        return len(self.items) > MAX_DENSE_ITEMS

    @cached_property
    def cooccurrence(self) -> Tensor:
        """Co-occurrence counts [V, V], which several memories are made of."""
        return cooccurrence_counts(self.matrix)


def build_memories(kind: ItemMemoryKind, covered: CoveredRows, neighbours: int, ridge: float) -> Params:
    """Build an item-item memory from the rows of past entities.

    Returns row [C] and neighbour [V, N], whole numbers, and weight [V, N] float32. Row row[i] of the tables has the
    items on which having met i has the largest weights, positive or negative; row 0 is that of items which are not
    covered, with weights of 0. Memory is O(C + V N + V^2); without the square where V is large, and then an EASE memory
    has no more than LOCAL_NEIGHBOURS neighbours.
    """
    items, catalogue = covered.items, covered.catalogue
    if covered.is_large:
        lists = _cosine_lists(covered, neighbours) if kind == "cosine" else _ease_lists(covered, neighbours, ridge)
        return neighbour_table(torch.from_numpy(items), lists, catalogue)
    width = max(1, min(neighbours, len(items)))
    row = torch.zeros(catalogue, dtype=torch.int32)
    neighbour = torch.zeros(len(items) + 1, width, dtype=torch.int32)
    weight = torch.zeros(len(items) + 1, width)
    if len(items) > 1:
        weights = _cosine_similarity(covered.cooccurrence) if kind == "cosine" else _ease_weights(covered, ridge)
        near, strength = _strongest_columns(weights.numpy(), width)
        row[torch.from_numpy(items)] = torch.arange(1, len(items) + 1, dtype=torch.int32)
        neighbour[1:] = torch.from_numpy(items[near].astype(np.int32))
        weight[1:] = torch.from_numpy(strength.astype(np.float32))
    return {"row": row, "neighbour": neighbour, "weight": weight}


def _ease_weights(covered: CoveredRows, ridge: float) -> Tensor:
    rows, items = covered.matrix.shape
    # With few rows EASE is solved on their side and needs no counts.
    return ease_weights(covered.matrix, ridge, None if 2 * rows < items else covered.cooccurrence)


def _cosine_lists(covered: CoveredRows, width: int) -> NeighbourLists:
    counts = torch.from_numpy(np.bincount(covered.matrix.indices, minlength=len(covered.items)).astype(np.float32))
    near = cooccurring_items(covered.matrix, counts.numpy(), width)
    return NeighbourLists(near.neighbour, normalize_cooccurrence(near.value, counts[:, None], counts[near.neighbour]))


def _ease_lists(covered: CoveredRows, width: int, ridge: float) -> NeighbourLists:
    together = count_pairs(covered.matrix)
    near = cooccurring_items(covered.matrix, together.diagonal(), min(width, LOCAL_NEIGHBOURS), together)
    return local_ease(together, near, ridge)


def _cosine_similarity(together: Tensor) -> Tensor:
    """Cosine [V, V] of items from their co-occurrence counts; 0 with themselves."""
    counts = together.diagonal().clone()
    return normalize_cooccurrence(together, counts[:, None], counts).fill_diagonal_(0)


def _strongest_columns(weights: FloatArray, width: int) -> tuple[IntArray, FloatArray]:
    """Columns of the `width` largest absolute values of each row, ascending, and those values: both [V, width]."""
    near = np.empty((len(weights), width), np.int64)
    for start in range(0, len(weights), BLOCK):
        part = np.abs(weights[start : start + BLOCK])
        near[start : start + BLOCK] = np.argpartition(-part, width - 1, axis=1)[:, :width]
    near.sort(axis=1)
    return near, np.take_along_axis(weights, near, 1)


def memory_scores(memory: Params, rows: Interactions, catalogue: int) -> Tensor:
    """Scores [T, C] of the catalogue: the sum over support rows of the weights of the item's neighbours."""
    # Bundles written before there was a `row` have one table row for each item.
    position = memory["row"][rows.item].long() if "row" in memory else rows.item
    return sum_neighbours(memory["neighbour"], memory["weight"], position, rows.mask, catalogue)


def gaussian_memory(entity: Tensor, item: Tensor, catalogue: int, dims: int) -> Params:
    """Leading subspace of the past entities' rows, items [C, D] and gram [D, D], and the Gaussian of their weights in
    it, mean [D] and precision [D, D]."""
    shape = (int(entity.max()) + 1 if len(entity) else 1, catalogue)
    matrix = binary_matrix(entity.cpu().numpy(), item.cpu().numpy(), shape)
    items = truncated_svd(matrix, min(dims, *shape), seed=0)
    return {"items": items, "gram": items.T @ items, **fit_gaussian(torch.from_numpy(matrix @ items.numpy()))}
