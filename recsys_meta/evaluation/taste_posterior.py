"""Posterior of the tastes of a simulated world given support rows, by importance sampling.

A taste is a vector of D coordinates, and the utility of an item is linear in it: design . taste + offset. The proposal
of each task is the Laplace approximation of its posterior (Tierney and Kadane 1986), widened, so that with enough
samples the weighted means are those of the exact posterior. Points are quasi-random (Owen 1995) and the same for all
tasks. Shapes: T tasks, M samples, D coordinates, I items of the world, S support rows. Everything is float64, because
log-likelihoods of many rows are differences of large numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.stats.qmc import MultivariateNormalQMC
from torch import Tensor
from torch.nn import functional

NEWTON_STEPS = 20
MAX_CELLS = 4_000_000
"""Most utilities (tasks times samples times items) that are computed at once."""


@dataclass(frozen=True)
class VectorPrior:
    """Prior of tastes: independent coordinates with mean [T, D] and standard deviation std [D].

    They are Gaussian, but uniform where `is_uniform` [D] bool says so.
    """

    mean: Tensor
    std: Tensor
    is_uniform: Tensor

    def log_density(self, taste: Tensor) -> Tensor:
        """Log-density [T, M] of tastes [T, M, D] up to a constant."""
        z = (taste - self.mean[:, None]) / self.std
        # A uniform variable ends sqrt(3) standard deviations off its mean.
        outside = ((z.square() > 3) & self.is_uniform).any(-1)
        density = -0.5 * z.square().masked_fill(self.is_uniform, 0.0).sum(-1)
        return density.masked_fill(outside, -torch.inf)


class TasteLikelihood(Protocol):
    """Likelihood of the support rows of T tasks as a function of their tastes, concave in its logarithm."""

    def log_likelihood(self, taste: Tensor) -> Tensor:
        """Log-likelihood [T, M] of tastes [T, M, D]."""

    def derivatives(self, taste: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient [T, D] of the log-likelihood at tastes [T, D], and the negative of its Hessian [T, D, D]."""


@dataclass(frozen=True)
class ChoiceLikelihood:
    """Likelihood of items chosen one by one without replacement, in proportion to exp(utility) (Plackett-Luce).

    design [I, D], offset [I]; chosen [T, S]: items in the order of choice; mask [T, S] bool: rows that are real. Items
    that the task has not chosen compete in every row, those that it has chosen until they are.
    """

    design: Tensor
    offset: Tensor
    chosen: Tensor
    mask: Tensor

    @property
    def is_left(self) -> Tensor:
        """Mask [T, I] of the items that are left after the support."""
        count = torch.zeros(len(self.chosen), len(self.offset), device=self.chosen.device)
        return count.scatter_add(1, self.chosen, self.mask.to(count.dtype)) == 0

    def log_likelihood(self, taste: Tensor) -> Tensor:
        """Log-likelihood [T, M] of tastes [T, M, D]."""
        blocks = torch.split(taste, block_size(taste, len(self.offset)), dim=1)
        return torch.cat([self._log_likelihood(block) for block in blocks], 1)

    def _log_likelihood(self, taste: Tensor) -> Tensor:
        utility = taste @ self.design.T + self.offset
        left = utility.masked_fill(~self.is_left[:, None], -torch.inf).logsumexp(-1, keepdim=True)
        index = self.chosen[:, None].expand(-1, taste.shape[1], -1)
        chosen = utility.gather(2, index).masked_fill(~self.mask[:, None], -torch.inf)
        # What competes in a row is its item, those of later rows and all that are left: sums from the last row on.
        competing = torch.cat([left, chosen.flip(-1)], -1).logcumsumexp(-1)[..., 1:].flip(-1)
        return (chosen - competing).masked_fill(~self.mask[:, None], 0.0).sum(-1)

    def derivatives(self, taste: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient [T, D] of the log-likelihood at tastes [T, D], and the negative of its Hessian [T, D, D]."""
        tasks, dims = taste.shape
        utility = taste @ self.design.T + self.offset
        weight = (utility - utility.amax(1, keepdim=True)).exp()
        moments = torch.cat(
            [
                torch.ones_like(self.offset)[:, None],
                self.design,
                (self.design[:, :, None] * self.design[:, None]).flatten(1),
            ],
            1,
        )
        left = (weight * self.is_left) @ moments
        chosen = weight.gather(1, self.chosen)[..., None] * moments[self.chosen] * self.mask[..., None]
        sums = left[:, None] + chosen.flip(1).cumsum(1).flip(1)
        expected = sums[..., 1:] / sums[..., :1]
        first, second = expected[..., :dims], expected[..., dims:].reshape(tasks, -1, dims, dims)
        gradient = ((self.design[self.chosen] - first) * self.mask[..., None]).sum(1)
        covariance = second - first[..., None] * first[..., None, :]
        return gradient, (covariance * self.mask[..., None, None]).sum(1)


@dataclass(frozen=True)
class ClickLikelihood:
    """Likelihood of labels 0 and 1 with the logit design . taste + offset, independent given the taste.

    design [T, S, D], offset, label and mask [T, S].
    """

    design: Tensor
    offset: Tensor
    label: Tensor
    mask: Tensor

    def log_likelihood(self, taste: Tensor) -> Tensor:
        """Log-likelihood [T, M] of tastes [T, M, D]."""
        logit = taste @ self.design.mT + self.offset[:, None]
        sign = 2 * self.label[:, None] - 1
        return functional.logsigmoid(sign * logit).masked_fill(~self.mask[:, None], 0.0).sum(-1)

    def derivatives(self, taste: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient [T, D] of the log-likelihood at tastes [T, D], and the negative of its Hessian [T, D, D]."""
        probability = ((self.design * taste[:, None]).sum(-1) + self.offset).sigmoid()
        residual = (self.label - probability) * self.mask
        variance = probability * (1 - probability) * self.mask
        return (residual[..., None] * self.design).sum(1), (self.design * variance[..., None]).mT @ self.design


def block_size(taste: Tensor, width: int) -> int:
    """Number of samples of tastes [T, M, D] whose values for `width` items are held at once."""
    return max(1, MAX_CELLS // max(1, len(taste) * width))


def sample_posterior(
    likelihood: TasteLikelihood, prior: VectorPrior, samples: int, *, seed: int = 0, spread: float = 1.1
) -> tuple[Tensor, Tensor]:
    """Sample tastes [T, M, D] and their log-weights [T, M], which sum to one over the samples of a task.

    `spread` is the factor by which the proposal is wider than the Laplace approximation.
    """
    mode, information = posterior_mode(likelihood, prior)
    normal = _standard_normal(samples, mode.shape[1], seed).to(mode)
    root = torch.linalg.cholesky(information)
    shift = torch.linalg.solve_triangular(root.mT, normal.T.expand(len(mode), -1, -1), upper=True).mT
    taste = mode[:, None] + spread * shift
    log_weight = likelihood.log_likelihood(taste) + prior.log_density(taste) + 0.5 * normal.square().sum(-1)
    return taste, log_weight.log_softmax(-1)


def posterior_mode(likelihood: TasteLikelihood, prior: VectorPrior) -> tuple[Tensor, Tensor]:
    """Find the modes [T, D] of the posteriors by damped Newton steps; return them with the negative Hessians [T, D, D].

    A uniform coordinate has the Gaussian prior of its mean and deviation here.
    """
    precision = prior.std**-2
    taste = prior.mean
    for _ in range(NEWTON_STEPS):
        gradient, information = _derivatives(likelihood, prior.mean, precision, taste)
        step = torch.linalg.solve(information, gradient)
        decrement = (gradient * step).sum(-1, keepdim=True).clamp(min=0).sqrt()
        taste = taste + step / (1 + decrement)
    return taste, _derivatives(likelihood, prior.mean, precision, taste)[1]


def _derivatives(likelihood: TasteLikelihood, mean: Tensor, precision: Tensor, taste: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient [T, D] and negative Hessian [T, D, D] of the log-posterior."""
    gradient, information = likelihood.derivatives(taste)
    return gradient - (taste - mean) * precision, information + precision.diag()


def _standard_normal(samples: int, dims: int, seed: int) -> Tensor:
    """Quasi-random points [M, D] of the standard normal distribution."""
    return torch.from_numpy(MultivariateNormalQMC(np.zeros(dims), rng=np.random.default_rng(seed)).random(samples))
