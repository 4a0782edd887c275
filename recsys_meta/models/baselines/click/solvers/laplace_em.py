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

EM_ROUNDS = 12
_STEP_LENGTHS = (1.0, 0.3, 0.1)


@dataclass(frozen=True)
class FixedSide:
    """What is held while one side is learned: `offset` [R], `vectors` [C, D] of the other side and, where those were
    learned too, their posterior covariances `blur` [C, D, D]. Taking them for exact fits the past rows too well."""

    offset: Tensor
    vectors: Tensor
    covariance: Tensor | None = None


@dataclass(frozen=True)
class LearnedPrior:
    """w_e ~ N(A x_e, S): `regress` A [F, D], `covariance` S [D, D], `variance` of the noise (1 for clicks as they are),
    and of those that it was learned from the weights [U, D] and their posterior covariances `weight_covariance` [U, D, D].
    float64."""

    coefficients: Tensor
    covariance: Tensor
    variance: float
    weight: Tensor
    weight_covariance: Tensor

    def to_params(self) -> Params:
        """As float32: "prior" [F, D], "precision" [D, D], "variance" []."""
        return {
            "prior": self.coefficients.float(),
            "precision": torch.linalg.inv(self.covariance).float(),
            "variance": torch.tensor(self.variance),
        }


def flat_prior(entities: int, columns: int, dims: int, likelihood: Likelihood) -> LearnedPrior:
    """Where learning starts: a normal around 0."""
    logit = likelihood == "logistic"
    covariance = torch.eye(dims, dtype=torch.float64) * (0.25 if logit else 0.02)
    weight = covariance.new_zeros(entities, dims)
    coefficients, posterior = covariance.new_zeros(columns, dims), covariance.expand(entities, -1, -1)
    return LearnedPrior(coefficients, covariance, 1.0 if logit else 0.25, weight, posterior)


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
    rounds: int = EM_ROUNDS,
) -> LearnedPrior:
    """The prior of label ~ offset + w_e . v(item), where w_e depends on content [U, F] (a constant first).

    Each round takes a damped Newton step for every entity, then the moments of what was found: A by ridge regression
    (the constant is free), S from the residuals and the posterior covariances, for "squared" the noise too.
    """
    prior = start or flat_prior(rows.entities, content.shape[1], partners.vectors.shape[1], likelihood)
    if not len(rows):
        return prior
    regression = _RidgeRegression.of(content, ridge)
    for _ in range(rounds):
        prior = _em_round(prior, rows, partners, regression, likelihood)
    return prior


@dataclass(frozen=True)
class _RidgeRegression:
    """Ridge regressions on the same columns: `root` [F, F] of the regularised Gram matrix; `free` is how many of the
    targets' degrees of freedom they leave, at least .3 of them."""

    content: sp.csr_matrix
    root: Tensor
    degrees_of_freedom: float

    @classmethod
    def of(cls, content: sp.csr_matrix, ridge: float) -> _RidgeRegression:
        gram = torch.from_numpy((content.T @ content).toarray())
        penalty = gram.new_full((len(gram),), ridge)
        penalty[0] = 1e-6
        root = torch.linalg.cholesky(gram + penalty.diag())
        effective_parameters = float(torch.cholesky_solve(gram, root).trace())
        return cls(content, root, max(content.shape[0] - effective_parameters, 0.3 * content.shape[0], 1.0))

    def fit(self, target: Tensor) -> Tensor:
        """Weights [F, D] for targets [U, D]."""
        return torch.cholesky_solve(torch.from_numpy(self.content.T @ target.numpy()), self.root)

    def predict(self, weights: Tensor) -> Tensor:
        """What weights [F, D] give, [U, D]."""
        return torch.from_numpy(self.content @ weights.numpy())


def _em_round(
    prior: LearnedPrior, rows: ClickRows, partners: FixedSide, regression: _RidgeRegression, likelihood: Likelihood
) -> LearnedPrior:
    logit, vectors = likelihood == "logistic", partners.vectors.double()
    row_vectors = vectors[rows.item]
    precision = torch.linalg.inv(prior.covariance)
    deviation = prior.weight - regression.predict(prior.coefficients)
    eta = partners.offset + (row_vectors * prior.weight[rows.task]).sum(1)
    mean = torch.sigmoid(eta) if logit else eta
    curvature = mean * (1 - mean) if logit else torch.full_like(mean, 1 / prior.variance)
    partner_curvature = (
        torch.zeros_like(precision)
        if partners.covariance is None
        else _partner_covariance_sums(rows, curvature, partners.covariance)
    )
    quadratics = [(precision, deviation), (partner_curvature, prior.weight)]
    gradient = torch.from_numpy(rows.pair_sums((rows.label - mean) / prior.variance) @ vectors.numpy())
    gradient = gradient - deviation @ precision - _multiply(partner_curvature, prior.weight)
    posterior = torch.linalg.inv(_weighted_outer_sums(rows, curvature, vectors) + precision + partner_curvature)
    step = _multiply(posterior, gradient)
    if logit:
        step = step * _step_lengths(rows, eta, (row_vectors * step[rows.task]).sum(1), step, quadratics)
    weight, variance = prior.weight + step, prior.variance
    if not logit:
        residual = rows.label - partners.offset - (row_vectors * weight[rows.task]).sum(1)
        posterior_variance = (_weighted_outer_sums(rows, torch.ones_like(mean), vectors) * posterior).sum()
        variance = max(float((residual @ residual + posterior_variance) / len(rows)), 1e-4)
    coefficients = regression.fit(weight)
    deviation = weight - regression.predict(coefficients)
    covariance = posterior.mean(0) + deviation.T @ deviation / regression.degrees_of_freedom
    covariance.diagonal().add_(1e-6)
    return LearnedPrior(coefficients, covariance, variance, weight, posterior)


def _multiply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices [D, D] or [U, D, D] times vectors [U, D]."""
    return (matrix @ vector.unsqueeze(2)).squeeze(2)


def _weighted_outer_sums(rows: ClickRows, weight: Tensor, vectors: Tensor) -> Tensor:
    return segment_outer_sums(rows.pair_sums(weight.float()), vectors.float()).double()


def _partner_covariance_sums(rows: ClickRows, weight: Tensor, covariance: Tensor) -> Tensor:
    """Weighted sums over each entity's rows of the covariances of their partners, [U, D, D].

    The expected loss of a row exceeds that at the partner's mean by half of weight times w' (covariance) w.
    """
    dims = covariance.shape[1]
    return torch.from_numpy(rows.pair_sums(weight) @ covariance.reshape(len(covariance), -1).numpy()).reshape(
        -1, dims, dims
    )


def _step_lengths(
    rows: ClickRows, eta: Tensor, direction: Tensor, step: Tensor, quadratics: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """For each entity the length of step, of a few, that leaves the least loss (0 if none is better), [U, 1]. Bowls
    are quadratic parts of it: a matrix, and where in the bowl the entity stands."""
    losses = []
    for length in (0.0, *_STEP_LENGTHS):
        logit = eta + length * direction
        loss = rows.task_sums(functional.softplus(logit) - rows.label * logit)
        for matrix, position in quadratics:
            loss = loss + 0.5 * (_multiply(matrix, position + length * step) * (position + length * step)).sum(1)
        losses.append(loss)
    return eta.new_tensor((0.0, *_STEP_LENGTHS))[torch.stack(losses).argmin(0)][:, None]
