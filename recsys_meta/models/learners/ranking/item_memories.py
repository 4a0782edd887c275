"""Memories: what past entities' rows say about which items go together.

Item-item memories are of two kinds: `cosine`, the cosine of two items' columns (ItemKNN), and `ease`, the
closed-form ridge weights of Steck (2019). Each item keeps its strongest neighbours only, so a memory is two tables
[V, N] for V covered items, and what a support of S rows says of the catalogue is a gather and a scatter of S x N
numbers.

The third memory is a Gaussian: past entities' weights in the leading subspace of their rows, the prior of a linear
model whose posterior is solved for each newcomer (`linear.posterior`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, FloatArray, IntArray, Interactions, Params
from recsys_meta.models.functional.gaussian_posterior import fit_gaussian
from recsys_meta.models.functional.item_similarity import (
    binary_matrix,
    cooccurrence_counts,
    ease_weights,
    most_frequent_items,
    normalize_cooccurrence,
)
from recsys_meta.models.functional.linear_algebra import truncated_svd

Kind = Literal["cosine", "ease"]
MOST_ITEMS = 20_000
"""Memories cover so many of the most popular items: their cost grows with the square, and rare items have nothing to
tell."""
BLOCK = 1024


def build_memories(kind: Kind, entity: Tensor, item: Tensor, catalogue: int, neighbours: int, ridge: float) -> Params:
    """A memory from the rows (entity [R], item [R]) of past entities: row [C], neighbour [V, N], all int32, weight
    [V, N] float32. Row row[i] of the tables has the items that having met i speaks for (or against) most; row 0 is of
    items that are not covered, and says nothing. Memory is O(C + V N + V^2).
    """
    matrix, covered = _covered_matrix(entity, item, catalogue)
    width = max(1, min(neighbours, len(covered)))
    row = torch.zeros(catalogue, dtype=torch.int32)
    neighbour = torch.zeros(len(covered) + 1, width, dtype=torch.int32)
    weight = torch.zeros(len(covered) + 1, width)
    if len(covered) > 1:
        weights = _cosine_similarity(matrix) if kind == "cosine" else ease_weights(matrix, ridge)
        near, strength = _strongest(weights.numpy(), width)
        row[torch.from_numpy(covered)] = torch.arange(1, len(covered) + 1, dtype=torch.int32)
        neighbour[1:] = torch.from_numpy(covered[near].astype(np.int32))
        weight[1:] = torch.from_numpy(strength.astype(np.float32))
    return {"row": row, "neighbour": neighbour, "weight": weight}


def _covered_matrix(entity: Tensor, item: Tensor, catalogue: int) -> tuple[sp.csr_matrix, IntArray]:
    """Binary matrix [entities, covered] and the padded ids of its columns: the most popular items."""
    rows, items = entity.cpu().numpy(), item.cpu().numpy()
    counts = np.bincount(items, minlength=catalogue)
    counts[:FIRST] = 0
    covered, position = most_frequent_items(counts, MOST_ITEMS)
    keep = position[items] >= 0
    shape = (int(rows.max(initial=-1)) + 1, len(covered))
    return binary_matrix(rows[keep], position[items[keep]], shape), covered


def _cosine_similarity(matrix: sp.csr_matrix) -> Tensor:
    """Cosine of the columns of a binary matrix [U, M], [M, M]; 0 with themselves."""
    together = cooccurrence_counts(matrix)
    counts = together.diagonal().clone()
    return normalize_cooccurrence(together, counts[:, None], counts).fill_diagonal_(0)


def _strongest(weights: FloatArray, width: int) -> tuple[np.ndarray, FloatArray]:
    """The `width` largest in absolute value of each row, [covered, width] columns and values."""
    near = np.empty((len(weights), width), np.int64)
    for start in range(0, len(weights), BLOCK):  # blocks bound what argpartition holds
        part = np.abs(weights[start : start + BLOCK])
        near[start : start + BLOCK] = np.argpartition(-part, width - 1, axis=1)[:, :width]
    near.sort(axis=1)
    return near, np.take_along_axis(weights, near, 1)


def memory_scores(memory: Params, rows: Interactions, catalogue: int) -> Tensor:
    """What the support rows say of every item, summed over rows, [T, C]."""
    tasks, size = rows.item.shape
    said = memory["weight"].new_zeros(tasks, catalogue)
    if not size:
        return said
    # Bundles made before there was a `row` have one for each item.
    place = memory["row"][rows.item].long() if "row" in memory else rows.item
    near, strength = memory["neighbour"][place].long(), memory["weight"][place] * rows.mask[:, :, None]
    return said.scatter_add_(1, near.flatten(1), strength.flatten(1))


def gaussian_memory(entity: Tensor, item: Tensor, catalogue: int, dims: int) -> Params:
    """The leading subspace of past entities' rows, items [C, D], and the Gaussian of their weights in it."""
    shape = (int(entity.max()) + 1 if len(entity) else 1, catalogue)
    matrix = binary_matrix(entity.cpu().numpy(), item.cpu().numpy(), shape)
    items = truncated_svd(matrix, min(dims, *shape), seed=0)
    return {"items": items, "gram": items.T @ items, **fit_gaussian(torch.from_numpy(matrix @ items.numpy()))}
