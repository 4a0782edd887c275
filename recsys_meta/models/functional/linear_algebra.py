"""Linear algebra for batches of tasks, and the leading subspace of a sparse matrix."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

MIN_ROWS = 4
"""Rows from which on a product computes each row alike, however many there are."""


def batch_invariant_product(rows: Tensor, table: Tensor) -> Tensor:
    """rows [T, F] @ table [F, C], each row the same to the last bit whichever rows are beside it.

    For one row, or for two, the library has another program than for many, with other last bits; so there are
    `MIN_ROWS` at least. A product that waits for memory takes a seventh longer for it. Whether that is enough is the
    library's and the processor's choice: see `recsys_meta.inference.batch_invariance`.
    """
    count = len(rows)
    if count >= MIN_ROWS or not count:
        return rows @ table
    return (torch.cat([rows] * -(-MIN_ROWS // count)) @ table)[:count]


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """x [T, D] with matrix [T, D, D] x = right [T, D]; the matrices are symmetric and positive definite."""
    return torch.cholesky_solve(right.unsqueeze(2), torch.linalg.cholesky(matrix)).squeeze(2)


def weighted_outer_sum(vectors: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of outer products of each task's vectors [T, S, D], [T, D, D]; weight [T, S]."""
    return (vectors * weight.unsqueeze(2)).transpose(1, 2) @ vectors


def truncated_svd(matrix: sp.csr_matrix, dims: int, seed: int, sweeps: int = 6) -> Tensor:
    """Orthonormal basis [C, dims] of the leading right singular vectors, by subspace iteration.

    (Halko, Martinsson, Tropp 2011.) With fewer than `dims` rows or columns the last vectors are zero.
    """
    rank = min(dims + 16, *matrix.shape)
    start = np.random.default_rng(seed).standard_normal((matrix.shape[1], rank)).astype(np.float32)
    basis = np.linalg.qr(start)[0]
    for _ in range(sweeps):
        basis = np.linalg.qr(matrix.T @ (matrix @ basis))[0]
    _, _, right = np.linalg.svd(matrix @ basis, full_matrices=False)
    vectors = torch.from_numpy(np.ascontiguousarray((basis @ right.T)[:, :dims]))
    # The sign of a singular vector is arbitrary: fix it, so that equal data give equal parameters.
    vectors = vectors * torch.where(vectors.sum(0) < 0, -1.0, 1.0)
    return torch.nn.functional.pad(vectors, (0, dims - vectors.shape[1]))
