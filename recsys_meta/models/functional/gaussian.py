"""Linear algebra that learners and baselines share: Gaussian posteriors of an entity's weights over fixed item
vectors, for a batch of tasks in closed form, and the leading subspace of a sparse matrix."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.types import Params


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """x [T, D] with matrix [T, D, D] x = right [T, D]; the matrices are symmetric and positive definite."""
    return torch.cholesky_solve(right.unsqueeze(2), torch.linalg.cholesky(matrix)).squeeze(2)


def weighted_outer_sum(vectors: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of outer products of each task's vectors [T, S, D], [T, D, D]; weight [T, S]."""
    return (vectors * weight.unsqueeze(2)).transpose(1, 2) @ vectors


def fit_gaussian(vectors: Tensor) -> Params:
    """A Gaussian over rows [U, D]: mean [D] and precision [D, D].

    The covariance gets a thousandth of its mean variance on the diagonal, so that one row, or rows in a subspace,
    have a precision too.
    """
    rows = vectors.double()
    mean = rows.mean(0)
    centred = rows - mean
    covariance = centred.T @ centred / max(len(rows), 1)
    covariance.diagonal().add_(1e-3 * float(covariance.diagonal().mean()) + 1e-8)
    return {"mean": mean.float(), "precision": torch.linalg.inv(covariance).float().contiguous()}


def gaussian_posterior(
    body: Params,
    vectors: Tensor,
    weight: Tensor,
    *,
    gain: float,
    target: float,
    zeros: float | Tensor,
    prior: float | Tensor,
) -> Tensor:
    """Weights w [T, D] given the vectors [T, S, D] of items met, with `weight` [T, S]:

    (zeros G + gain A'A + prior P) w = target A'1 + prior P m,

    G = body["gram"] the sum of all items' outer products, m and P mean and precision of the prior. `zeros` says
    how much the items not met count as refused: a newcomer has not refused what it has not seen yet, so nothing
    at all with an empty support, where w = m. `zeros` and `prior` are numbers, or [T, 1, 1] for each task its own.
    """
    met = (weight.sum(1) > 0).to(vectors.dtype)[:, None, None]
    precision = prior * body["precision"]
    matrix = zeros * met * body["gram"] + gain * weighted_outer_sum(vectors, weight) + precision
    right = target * (vectors * weight.unsqueeze(2)).sum(1) + precision @ body["mean"]
    return solve(matrix, right)


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
