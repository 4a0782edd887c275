"""The posterior of an entity's weights given its clicks, for a batch of tasks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.models.functional.gaussian import weighted_outer_sum

ROUNDS = 8
_LENGTHS = (1.0, 0.5, 0.0)


def bernoulli_posterior(
    vectors: Tensor, label: Tensor, weight: Tensor, offset: Tensor, mean: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    """Mode [T, D] and covariance [T, D, D] (Laplace) of w with label ~ Bernoulli(sigmoid(offset + w . v)), w ~ N.

    vectors [T, S, D]; label, weight (0: padding) and offset [T, S]; mean [T, D]; precision [D, D]. Each round takes the
    best of a Newton step, half of it, none, and a step by the largest curvature there can be (Boehning and Lindsay
    1988), which never goes uphill however far away the mode is. An empty support gives the prior.
    """
    w = mean
    if vectors.shape[1]:
        bound = torch.linalg.cholesky(weighted_outer_sum(vectors, 0.25 * weight) + precision)
        lengths = torch.tensor(_LENGTHS, device=w.device)[:, None, None]
    for _ in range(ROUNDS if vectors.shape[1] else 0):
        eta = offset + torch.einsum("tsd,td->ts", vectors, w)
        p = torch.sigmoid(eta)
        slope = torch.einsum("tsd,ts->td", vectors, (label - p) * weight) - (w - mean) @ precision
        newton = _solved(_root(vectors, p, weight, precision), slope)
        steps = torch.cat([lengths * newton, _solved(bound, slope)[None]])
        moved = eta + torch.einsum("tsd,ltd->lts", vectors, steps)
        gap = w - mean + steps
        loss = ((functional.softplus(moved) - label * moved) * weight).sum(2) + 0.5 * ((gap @ precision) * gap).sum(2)
        w = w + steps[loss.argmin(0), torch.arange(len(w), device=w.device)]
    p = torch.sigmoid(offset + torch.einsum("tsd,td->ts", vectors, w))
    return w, torch.cholesky_inverse(_root(vectors, p, weight, precision))


def _root(vectors: Tensor, p: Tensor, weight: Tensor, precision: Tensor) -> Tensor:
    root: Tensor = torch.linalg.cholesky(weighted_outer_sum(vectors, p * (1 - p) * weight) + precision)
    return root


def _solved(root: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right.unsqueeze(2), root).squeeze(2)


def probit_adjusted_logit(logit: Tensor, variance: Tensor) -> Tensor:
    """The logit of the mean probability of a normal logit (MacKay 1992): towards 0 the less is known."""
    return logit / torch.sqrt(1 + torch.pi / 8 * variance)
