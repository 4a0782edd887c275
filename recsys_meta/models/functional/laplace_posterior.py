"""Laplace posteriors of T entities' weights under a Bernoulli likelihood and a Gaussian prior.

    w ~ N(mean, precision^-1),  y ~ Bernoulli(sigmoid(offset + x . w)),  x [K] known for each row

No closed form exists, but the mode is a few weighted least-squares solves away, and the curvature there gives a
Gaussian posterior. There are two solvers, and both go downhill from wherever they start, which a plain Newton
iteration does not (hundreds of equal labels make it oscillate):

- `laplace_posterior`, for a standard Gaussian prior, takes a fixed number of steps that autograd can go through. Rows
  are weighted by the curvature of the quadratic bound of Jaakkola & Jordan (2000), tanh(a / 2) / 2a, below which the
  log-likelihood never falls. Precisions are I + a positive matrix, so they have a Cholesky factor in single precision
  without any jitter.
- `newton_laplace_posterior`, for any Gaussian prior, converges to the mode by safeguarded Newton steps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.models.functional.linear_algebra import weighted_outer_sum

ROUNDS = 8
"""Of safeguarded Newton steps."""
LENGTHS = (1.0, 0.5, 0.0)
"""Shares of a Newton step that are tried."""


def jaakkola_jordan_curvature(logit: Tensor) -> Tensor:
    """tanh(a / 2) / 2a, the curvature of the bound that touches the log-likelihood at a; 1/4 at 0."""
    small = logit.abs() < 1e-2
    a = torch.where(small, torch.ones_like(logit), logit)
    return torch.where(small, 0.25 - logit.square() / 48, torch.tanh(a / 2) / (2 * a))


def posterior_precision(x: Tensor, curvature: Tensor) -> Tensor:
    """I + sum of curvature x x', [T, K, K]; x [T, S, K], curvature [T, S]."""
    return torch.eye(x.shape[2], dtype=x.dtype, device=x.device) + weighted_outer_sum(x, curvature)


def laplace_posterior(x: Tensor, offset: Tensor, label: Tensor, weight: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Mode z [T, K] under the prior N(0, I), and the lower Cholesky factor [T, K, K] of the precision there.

    x [T, S, K]; offset, label and weight [T, S]; a row of weight 0 does not count, one of weight 2 counts twice. With
    no rows the posterior is the prior, exactly.
    """
    z = x.new_zeros(x.shape[0], x.shape[2])
    for _ in range(steps):
        logit = offset + (x @ z.unsqueeze(2)).squeeze(2)
        curvature = jaakkola_jordan_curvature(logit)
        pull = (x.transpose(1, 2) @ (weight * (label - 0.5 - curvature * offset)).unsqueeze(2)).squeeze(2)
        factor = torch.linalg.cholesky(posterior_precision(x, weight * curvature))
        z = torch.cholesky_solve(pull.unsqueeze(2), factor).squeeze(2)
    logit = offset + (x @ z.unsqueeze(2)).squeeze(2)
    probability = torch.sigmoid(logit)
    precision = posterior_precision(x, weight * probability * (1 - probability))
    return z, torch.linalg.cholesky(precision).contiguous()


def prediction_variance(x: Tensor, factor: Tensor) -> Tensor:
    """x' P^-1 x of rows x [T, R, K] under precisions given by their Cholesky factors [T, K, K], [T, R]."""
    half: Tensor = torch.linalg.solve_triangular(factor, x.transpose(1, 2), upper=False)
    return half.square().sum(1)


def newton_laplace_posterior(
    vectors: Tensor, label: Tensor, weight: Tensor, offset: Tensor, mean: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    """Mode [T, D] of w and the covariance [T, D, D] there, for label ~ Bernoulli(sigmoid(offset + w . v)).

    vectors [T, S, D]; label, weight (0: padding) and offset [T, S]; mean [T, D] and precision [D, D] of the prior.
    Each round takes the best of a Newton step, half of it, none, and a step by the largest curvature there can be
    (Boehning and Lindsay 1988), which never goes uphill however far away the mode is. An empty support gives the prior.
    """
    w = mean
    if vectors.shape[1]:
        bound = torch.linalg.cholesky(weighted_outer_sum(vectors, 0.25 * weight) + precision)
        lengths = torch.tensor(LENGTHS, device=w.device)[:, None, None]
    for _ in range(ROUNDS if vectors.shape[1] else 0):
        logit = offset + torch.einsum("tsd,td->ts", vectors, w)
        probability = torch.sigmoid(logit)
        slope = torch.einsum("tsd,ts->td", vectors, (label - probability) * weight) - (w - mean) @ precision
        newton = _solve_cholesky(_precision_factor(vectors, probability, weight, precision), slope)
        steps = torch.cat([lengths * newton, _solve_cholesky(bound, slope)[None]])
        logits = logit + torch.einsum("tsd,ltd->lts", vectors, steps)
        deviation = w - mean + steps
        loss = ((functional.softplus(logits) - label * logits) * weight).sum(2)
        loss = loss + 0.5 * ((deviation @ precision) * deviation).sum(2)
        w = w + steps[loss.argmin(0), torch.arange(len(w), device=w.device)]
    probability = torch.sigmoid(offset + torch.einsum("tsd,td->ts", vectors, w))
    return w, torch.cholesky_inverse(_precision_factor(vectors, probability, weight, precision))


def _precision_factor(vectors: Tensor, probability: Tensor, weight: Tensor, precision: Tensor) -> Tensor:
    """Lower Cholesky factor [T, D, D] of the posterior precision at these probabilities [T, S]."""
    curvature = probability * (1 - probability) * weight
    factor: Tensor = torch.linalg.cholesky(weighted_outer_sum(vectors, curvature) + precision)
    return factor


def _solve_cholesky(factor: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right.unsqueeze(2), factor).squeeze(2)


def probit_adjusted_logit(logit: Tensor, variance: Tensor) -> Tensor:
    """Logit of the mean probability of N(logit, variance) (MacKay 1992): the larger the variance, the nearer to 0."""
    return logit / torch.sqrt(1 + torch.pi / 8 * variance)
