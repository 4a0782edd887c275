"""The posterior of T entities' weights under a Bernoulli likelihood and a standard Gaussian prior.

    z ~ N(0, I),  y ~ Bernoulli(sigma(offset + x . z)),  x [K] known for each row

No closed form exists, but the mode is a few weighted least-squares solves away, and the curvature there gives a
Gaussian (Laplace) posterior. Rows are weighted by the curvature of the quadratic bound of Jaakkola & Jordan (2000),
tanh(a / 2) / 2a, below which the log-likelihood never falls: every step goes downhill from wherever it starts, while
Newton's own may not (hundreds of equal labels send it to and fro). Precisions are I + a positive matrix, so that they
have a Cholesky factor in single precision without any jitter.
"""

from __future__ import annotations

import torch
from torch import Tensor


def jaakkola_jordan_curvature(logit: Tensor) -> Tensor:
    """tanh(a / 2) / 2a, the curvature of the bound that touches the log-likelihood at a; 1/4 at 0."""
    small = logit.abs() < 1e-2
    a = torch.where(small, torch.ones_like(logit), logit)
    return torch.where(small, 0.25 - logit.square() / 48, torch.tanh(a / 2) / (2 * a))


def posterior_precision(x: Tensor, curvature: Tensor) -> Tensor:
    """I + sum of curvature x x', [T, K, K]; x [T, S, K], curvature [T, S]."""
    own = torch.eye(x.shape[2], dtype=x.dtype, device=x.device)
    return own + (x * curvature.unsqueeze(2)).transpose(1, 2) @ x


def laplace_posterior(x: Tensor, offset: Tensor, label: Tensor, weight: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Mode z [T, K] and the lower Cholesky factor [T, K, K] of the precision there.

    x [T, S, K]; offset, label and weight [T, S]; a row of weight 0 is none, one of weight 2 counts twice. With no rows
    the posterior is the prior, exactly.
    """
    z = x.new_zeros(x.shape[0], x.shape[2])
    for _ in range(steps):
        logit = offset + (x @ z.unsqueeze(2)).squeeze(2)
        curvature = jaakkola_jordan_curvature(logit)
        pull = (x.transpose(1, 2) @ (weight * (label - 0.5 - curvature * offset)).unsqueeze(2)).squeeze(2)
        factor = torch.linalg.cholesky(posterior_precision(x, weight * curvature))
        z = torch.cholesky_solve(pull.unsqueeze(2), factor).squeeze(2)
    logit = offset + (x @ z.unsqueeze(2)).squeeze(2)
    chance = torch.sigmoid(logit)
    return z, torch.linalg.cholesky(posterior_precision(x, weight * chance * (1 - chance))).contiguous()


def logit_variance(x: Tensor, factor: Tensor) -> Tensor:
    """x' P^-1 x of rows x [T, R, K] under precisions given by their Cholesky factors [T, K, K], [T, R]."""
    half: Tensor = torch.linalg.solve_triangular(factor, x.transpose(1, 2), upper=False)
    return half.square().sum(1)
