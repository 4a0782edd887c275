"""The prior of a linear model's weights given an entity's features, for clicks: empirical Bayes by Laplace steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.types import Params
from recsys_meta.models.baselines.click.solvers.additive_logit import Likelihood
from recsys_meta.models.baselines.click.solvers.click_rows import ClickRows
from recsys_meta.models.baselines.latent.em_prior import segment_outer_sums

ROUNDS = 12
_LENGTHS = (1.0, 0.3, 0.1)


@dataclass(frozen=True)
class FixedSide:
    """What is held while one side is learned: `offset` [R], `vectors` [C, D] of the other side and, where those were
    learned too, their posterior covariances `blur` [C, D, D]. Taking them for exact fits the past rows too well."""

    offset: Tensor
    vectors: Tensor
    blur: Tensor | None = None


@dataclass(frozen=True)
class LearnedPrior:
    """w_e ~ N(A x_e, S): `regress` A [F, D], `covariance` S [D, D], `variance` of the noise (1 for clicks as they are),
    and of those that it was learned from the weights [U, D] and their posterior covariances `weight_covariance` [U, D, D].
    float64."""

    regress: Tensor
    covariance: Tensor
    variance: float
    weight: Tensor
    weight_covariance: Tensor

    def params(self) -> Params:
        """As float32: "prior" [F, D], "precision" [D, D], "variance" []."""
        return {
            "prior": self.regress.float(),
            "precision": torch.linalg.inv(self.covariance).float(),
            "variance": torch.tensor(self.variance),
        }


def flat_prior(entities: int, columns: int, dims: int, likelihood: Likelihood) -> LearnedPrior:
    """Where learning starts: a normal around 0."""
    logit = likelihood == "logistic"
    covariance = torch.eye(dims, dtype=torch.float64) * (0.25 if logit else 0.02)
    weight = covariance.new_zeros(entities, dims)
    regress, spread = covariance.new_zeros(columns, dims), covariance.expand(entities, -1, -1)
    return LearnedPrior(regress, covariance, 1.0 if logit else 0.25, weight, spread)


def prior_around(weight: Tensor, columns: int) -> LearnedPrior:
    """Where learning goes on from weights [U, D] that are known already: their second moments around 0."""
    dims = weight.shape[1]
    covariance = weight.T @ weight / max(len(weight), 1)
    covariance.diagonal().add_(1e-3)
    return LearnedPrior(
        weight.new_zeros(columns, dims), covariance, 1.0, weight, covariance.expand(len(weight), -1, -1)
    )


def learn_click_prior(
    rows: ClickRows,
    partners: FixedSide,
    content: sp.csr_matrix,
    ridge: float,
    likelihood: Likelihood,
    start: LearnedPrior | None = None,
    rounds: int = ROUNDS,
) -> LearnedPrior:
    """The prior of label ~ offset + w_e . v(item), where w_e depends on content [U, F] (a constant first).

    Each round takes a damped Newton step for every entity, then the moments of what was found: A by ridge regression
    (the constant is free), S from the residuals and the posterior covariances, for "squared" the noise too.
    """
    learned = start or flat_prior(rows.entities, content.shape[1], partners.vectors.shape[1], likelihood)
    if not len(rows):
        return learned
    regression = _RidgeRegression.of(content, ridge)
    for _ in range(rounds):
        learned = _round(learned, rows, partners, regression, likelihood)
    return learned


@dataclass(frozen=True)
class _RidgeRegression:
    """Ridge regressions on the same columns: `root` [F, F] of the regularised Gram matrix; `free` is how many of the
    targets' degrees of freedom they leave, at least .3 of them."""

    content: sp.csr_matrix
    root: Tensor
    free: float

    @classmethod
    def of(cls, content: sp.csr_matrix, ridge: float) -> _RidgeRegression:
        gram = torch.from_numpy((content.T @ content).toarray())
        penalty = gram.new_full((len(gram),), ridge)
        penalty[0] = 1e-6
        root = torch.linalg.cholesky(gram + penalty.diag())
        taken = float(torch.cholesky_solve(gram, root).trace())
        return cls(content, root, max(content.shape[0] - taken, 0.3 * content.shape[0], 1.0))

    def fitted(self, target: Tensor) -> Tensor:
        """Weights [F, D] for targets [U, D]."""
        return torch.cholesky_solve(torch.from_numpy(self.content.T @ target.numpy()), self.root)

    def said(self, weights: Tensor) -> Tensor:
        """What weights [F, D] give, [U, D]."""
        return torch.from_numpy(self.content @ weights.numpy())


def _round(
    old: LearnedPrior, rows: ClickRows, partners: FixedSide, regression: _RidgeRegression, likelihood: Likelihood
) -> LearnedPrior:
    logit, vectors = likelihood == "logistic", partners.vectors.double()
    at = vectors[rows.item]
    precision = torch.linalg.inv(old.covariance)
    gap = old.weight - regression.said(old.regress)
    eta = partners.offset + (at * old.weight[rows.task]).sum(1)
    p = torch.sigmoid(eta) if logit else eta
    curvature = p * (1 - p) if logit else torch.full_like(p, 1 / old.variance)
    blur = torch.zeros_like(precision) if partners.blur is None else _blurred(rows, curvature, partners.blur)
    bowls = [(precision, gap), (blur, old.weight)]
    slope = torch.from_numpy(rows.sums((rows.label - p) / old.variance) @ vectors.numpy())
    slope = slope - gap @ precision - _times(blur, old.weight)
    spread = torch.linalg.inv(_outer(rows, curvature, vectors) + precision + blur)
    step = _times(spread, slope)
    if logit:
        step = step * _lengths(rows, eta, (at * step[rows.task]).sum(1), step, bowls)
    weight, variance = old.weight + step, old.variance
    if not logit:
        left = rows.label - partners.offset - (at * weight[rows.task]).sum(1)
        unsure = (_outer(rows, torch.ones_like(p), vectors) * spread).sum()
        variance = max(float((left @ left + unsure) / len(rows)), 1e-4)
    regress = regression.fitted(weight)
    gap = weight - regression.said(regress)
    covariance = spread.mean(0) + gap.T @ gap / regression.free
    covariance.diagonal().add_(1e-6)
    return LearnedPrior(regress, covariance, variance, weight, spread)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices [D, D] or [U, D, D] times vectors [U, D]."""
    return (matrix @ vector.unsqueeze(2)).squeeze(2)


def _outer(rows: ClickRows, weight: Tensor, vectors: Tensor) -> Tensor:
    return segment_outer_sums(rows.sums(weight.float()), vectors.float()).double()


def _blurred(rows: ClickRows, weight: Tensor, blur: Tensor) -> Tensor:
    """Weighted sums over each entity's rows of the covariances of their partners, [U, D, D].

    The expected loss of a row exceeds that at the partner's mean by half of weight times w' (covariance) w.
    """
    dims = blur.shape[1]
    return torch.from_numpy(rows.sums(weight) @ blur.reshape(len(blur), -1).numpy()).reshape(-1, dims, dims)


def _lengths(
    rows: ClickRows, eta: Tensor, along: Tensor, step: Tensor, bowls: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """For each entity the length of step, of a few, that leaves the least loss (0 if none is better), [U, 1]. Bowls
    are quadratic parts of it: a matrix, and where in the bowl the entity stands."""
    losses = []
    for length in (0.0, *_LENGTHS):
        moved = eta + length * along
        loss = rows.per_task(functional.softplus(moved) - rows.label * moved)
        for matrix, at in bowls:
            loss = loss + 0.5 * (_times(matrix, at + length * step) * (at + length * step)).sum(1)
        losses.append(loss)
    return eta.new_tensor((0.0, *_LENGTHS))[torch.stack(losses).argmin(0)][:, None]
