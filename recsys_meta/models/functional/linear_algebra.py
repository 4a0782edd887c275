"""Linear algebra for batches of tasks, and the leading subspace of a sparse matrix."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.models.functional.host_reads import is_readable

MOST_ROWS = 32
"""Rows up to which each is multiplied alone; more are one product, with other last bits."""


def batch_invariant_product(rows: Tensor, table: Tensor) -> Tensor:
    """rows [T, F] @ table [F, C], each of up to `MOST_ROWS` rows the same to the last bit whichever rows are beside it.

    A matrix product computes its rows by other programs where there are few or many, with other last bits; so each row
    is a product with the table of its own. That is what one entity costs least by: a product of matrices packs the
    table first, which takes four times as long as reading it.
    """
    if rows.shape[0] > MOST_ROWS or rows.requires_grad or table.requires_grad or not is_readable(rows):
        return rows @ table
    return torch.from_numpy(np.matmul(rows.numpy()[:, None], table.numpy())[:, 0])


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
