"""Item-item similarities of binary interaction matrices X [U, M]: co-occurrence counts, cosine, EASE."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.types import IntArray

MAX_DENSE_ITEMS = 5_000
"""Most items of a dense item-item matrix (100 MB). Of a larger catalogue it covers the most popular ones, or there are
lists of neighbours instead (`neighbour_lists`)."""
BLOCK = 2_048
"""Rows or columns that are made dense at a time: bounds the memory."""
SPARSE_COST = 200
"""Multiplications of a dense product that take as long as one of a sparse product."""

SINGLE_CONDITION = 1e5
"""Condition number up to which EASE is solved in single precision: weights are then right to about 1e-5."""


def binary_matrix(row: IntArray, column: IntArray, shape: tuple[int, int]) -> sp.csr_matrix:
    """CSR matrix of the shape, float32: 1 at each pair (row [N], column [N]), however often it occurs, else 0."""
    matrix = sp.csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def most_frequent_items(counts: IntArray, limit: int) -> tuple[IntArray, IntArray]:
    """Ids [M] of the at most `limit` items with the highest counts [C], ascending, and the position of every item
    among them [C] int64, -1 for the others. Items that occur never are left out; ties go to the lower id."""
    order = np.argsort(-counts, kind="stable")[:limit]
    ids = np.sort(order[counts[order] > 0]).astype(np.int64)
    position = np.full(len(counts), -1, np.int64)
    position[ids] = np.arange(len(ids))
    return ids, position


def cooccurrence_counts(matrix: sp.csr_matrix) -> Tensor:
    """X'X [M, M] float32: rows in which two items occur together. Exact: counts stay far below 2^24."""
    rows, items = matrix.shape
    total = torch.zeros(items, items)
    pairs = float((np.diff(matrix.indptr).astype(np.float64) ** 2).sum())
    if SPARSE_COST * pairs < rows * items**2:
        columns = matrix.tocsc()
        for start in range(0, items, BLOCK):
            part = columns[:, start : start + BLOCK].T @ matrix
            total[start : start + BLOCK] = torch.from_numpy(part.toarray())
    else:
        for start in range(0, rows, BLOCK):
            part = torch.from_numpy(matrix[start : start + BLOCK].toarray())
            total.addmm_(part.T, part)
    return total


def normalize_cooccurrence(
    cooccurrence: Tensor, source: Tensor, target: Tensor, power: float = 0.5, shrink: float = 0.0
) -> Tensor:
    """Similarity G / (n_s^(1 - power) n_t^power + shrink) from co-occurrence counts G and the items' own counts n.

    power 1/2 is the (shrunk) cosine, power 0 the conditional probability of the target given the source. Counts are
    at least 1; the three tensors have shapes that broadcast.
    """
    return cooccurrence / (source ** (1 - power) * target**power + shrink)


def ease_weights(matrix: sp.csr_matrix, ridge: float, counts: Tensor | None = None) -> Tensor:
    """EASE (Steck 2019): B [M, M] = I - P diag(1 / diag P) with P = (X'X + ridge I)^-1; row i is what item i adds.

    `counts` [M, M] are X'X where the caller has them already; they are left as they are.
    With far fewer rows than items the inverse is taken on the rows' side (Woodbury):
    (X'X + L I)^-1 = (I - X' (XX' + L I)^-1 X) / L.
    """
    rows, items = matrix.shape
    if 2 * rows < items:
        dense = torch.from_numpy(matrix.toarray())
        factor = _ridge_factor(dense @ dense.T, ridge)
        dense = dense.to(factor.dtype)
        inverse = dense.T @ torch.cholesky_solve(dense, factor)
        inverse.neg_().diagonal().add_(1)
        inverse /= ridge
    else:
        gram = cooccurrence_counts(matrix) if counts is None else counts.clone()
        inverse = torch.cholesky_inverse(_ridge_factor(gram, ridge))
    weights = inverse.div_(-inverse.diagonal().clone())
    return weights.fill_diagonal_(0).float()


def _ridge_factor(gram: Tensor, ridge: float) -> Tensor:
    """Lower Cholesky factor of gram + ridge I; in double precision where the ridge is too small for single."""
    # The largest row sum is at least the largest eigenvalue, so that over the ridge it bounds the condition number.
    double = bool((gram.sum(1) > SINGLE_CONDITION * ridge).any())
    matrix = gram.double() if double else gram
    matrix.diagonal().add_(ridge)
    factor: Tensor = torch.linalg.cholesky(matrix)
    return factor
