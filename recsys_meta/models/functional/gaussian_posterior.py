"""Gaussian posteriors of an entity's weights over fixed item vectors, for a batch of tasks in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.core.types import Params
from recsys_meta.models.functional.laplace_posterior import posterior_precision
from recsys_meta.models.functional.linear_algebra import solve, weighted_outer_sum


def fit_gaussian(vectors: Tensor) -> Params:
    """Fit a Gaussian to rows [U, D]: mean [D] and precision [D, D].

    The covariance gets a thousandth of its mean variance on the diagonal, so that one row, or rows in a subspace,
    have a precision too.
    """
    rows = vectors.double()
    mean = rows.mean(0)
    deviations = rows - mean
    covariance = deviations.T @ deviations / max(len(rows), 1)
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
    """Posterior mean w [T, D] given the vectors [T, S, D] of the support's items, with `weight` [T, S]:

    (zeros G + gain A'A + prior P) w = target A'1 + prior P m,

    G = body["gram"] the sum of all items' outer products, m and P mean and precision of the prior. `zeros` is the
    weight of the items outside the support as negatives. A new entity has not refused an item that it has not seen
    yet, so with an empty support that weight is 0 and w = m. `zeros` and `prior` are numbers, or [T, 1, 1] with one
    for each task.
    """
    has_rows = (weight.sum(1) > 0).to(vectors.dtype)[:, None, None]
    precision = prior * body["precision"]
    matrix = zeros * has_rows * body["gram"] + gain * weighted_outer_sum(vectors, weight) + precision
    right = target * (vectors * weight.unsqueeze(2)).sum(1) + precision @ body["mean"]
    return solve(matrix, right)


def whitened_posterior(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior of z ~ N(0, I) given residual = x . z + noise: its mean [T, K], and the lower Cholesky factor
    [T, K, K] of its precision.

    x [T, S, K]; residual and weight [T, S], the weight of a row 1 / variance of its noise, 0 for padding. Precisions
    are I + a positive matrix, so they have a Cholesky factor in single precision without any jitter.
    """
    factor = torch.linalg.cholesky(posterior_precision(x, weight))
    pull = x.transpose(1, 2) @ (weight * residual).unsqueeze(2)
    return torch.cholesky_solve(pull, factor).squeeze(2), factor.contiguous()
