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

from recsys_meta.core.types import FIRST, FloatArray, Interactions, Params
from recsys_meta.models.functional.gaussian import fit_gaussian, truncated_svd

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
    x, covered = _incidence(entity, item, catalogue)
    width = max(1, min(neighbours, len(covered)))
    row = torch.zeros(catalogue, dtype=torch.int32)
    neighbour = torch.zeros(len(covered) + 1, width, dtype=torch.int32)
    weight = torch.zeros(len(covered) + 1, width)
    if len(covered) > 1:
        near, strength = _strongest(_cosine(x) if kind == "cosine" else _ease(x, ridge), width)
        row[torch.from_numpy(covered)] = torch.arange(1, len(covered) + 1, dtype=torch.int32)
        neighbour[1:] = torch.from_numpy(covered[near].astype(np.int32))
        weight[1:] = torch.from_numpy(strength.astype(np.float32))
    return {"row": row, "neighbour": neighbour, "weight": weight}


def _incidence(entity: Tensor, item: Tensor, catalogue: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """Binary matrix [entities, covered] and the padded ids of its columns: items met at least once."""
    rows, items = entity.cpu().numpy(), item.cpu().numpy()
    counts = np.bincount(items, minlength=catalogue)
    counts[:FIRST] = 0
    covered = np.sort(np.argsort(-counts, kind="stable")[: min(MOST_ITEMS, int((counts > 0).sum()))])
    place = np.full(catalogue, -1)
    place[covered] = np.arange(len(covered))
    keep = place[items] >= 0
    shape = (int(rows.max(initial=-1)) + 1, len(covered))
    x = sp.csr_matrix((np.ones(int(keep.sum()), np.float32), (rows[keep], place[items[keep]])), shape=shape)
    x.data[:] = 1.0
    return x, covered


def _cosine(x: sp.csr_matrix) -> FloatArray:
    together = np.asarray((x.T @ x).todense(), np.float32)
    size = np.sqrt(together.diagonal().clip(min=1e-6))
    together /= size
    together /= size[:, None]
    np.fill_diagonal(together, 0)
    return together


def _ease(x: sp.csr_matrix, ridge: float) -> FloatArray:
    """B = I - P diag(1 / diag P) with P = (X'X + ridge I)^-1; rows are what an item of the support says.

    With far fewer entities than items the inverse is taken on the entities' side (Woodbury).
    """
    entities, items = x.shape
    if items <= 2 * entities:
        gram = np.asarray((x.T @ x).todense(), np.float32)
        gram[np.diag_indices(items)] += ridge
        p = np.linalg.inv(gram)
    else:
        small = np.asarray((x @ x.T).todense(), np.float32)
        small[np.diag_indices(entities)] += ridge
        dense = np.asarray(x.todense(), np.float32)
        p = -(dense.T @ np.linalg.solve(small, dense))
        p[np.diag_indices(items)] += 1
        p /= ridge
    weights = -p / p.diagonal()
    np.fill_diagonal(weights, 0)
    return weights


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
    pairs = (entity.cpu().numpy(), item.cpu().numpy())
    shape = (int(entity.max()) + 1 if len(entity) else 1, catalogue)
    matrix = sp.csr_matrix((np.ones(len(item), np.float32), pairs), shape=shape)
    matrix.data[:] = 1.0
    items = truncated_svd(matrix, min(dims, *shape), seed=0)
    return {"items": items, "gram": items.T @ items, **fit_gaussian(torch.from_numpy(matrix @ items.numpy()))}
