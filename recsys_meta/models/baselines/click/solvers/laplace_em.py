"""Prior of a linear model's weights given an entity's features, for clicks: empirical Bayes by Laplace EM."""

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
"""EM iterations of a prior that starts flat."""
_STEP_LENGTHS = (1.0, 0.3, 0.1)
"""Shares of a Newton step that are tried."""


@dataclass(frozen=True)
class FixedSide:
    """The side that is fixed while the other is fitted: `offset` [R] of the logit, `vectors` [C, D] of the items.

    Vectors that are estimates have a posterior `covariance` [C, D, D]: to count them as exact is to overfit.
    """

    offset: Tensor
    vectors: Tensor
    covariance: Tensor | None = None


@dataclass(frozen=True)
class LearnedPrior:
    """Prior w_e ~ N(A x_e, S), float64: `coefficients` A [F, D], `covariance` S [D, D], `variance` of the noise.

    The variance is 1 for the logistic likelihood. `weight` [U, D] and `weight_covariance` [U, D, D] are the posterior
    means and covariances of the training entities' weights.
    """

    coefficients: Tensor
    covariance: Tensor
    variance: float
    weight: Tensor
    weight_covariance: Tensor

    def to_params(self) -> Params:
        """Return the parameters to save, float32: "prior" [F, D], "precision" [D, D], "variance" []."""
        return {
            "prior": self.coefficients.float(),
            "precision": torch.linalg.inv(self.covariance).float(),
            "variance": torch.tensor(self.variance),
        }


def flat_prior(entities: int, columns: int, dims: int, likelihood: Likelihood) -> LearnedPrior:
    """Return the start of the EM: a normal prior around 0 with a fixed variance."""
    logit = likelihood == "logistic"
    covariance = torch.eye(dims, dtype=torch.float64) * (0.25 if logit else 0.02)
    weight = covariance.new_zeros(entities, dims)
    coefficients, posterior = covariance.new_zeros(columns, dims), covariance.expand(entities, -1, -1)
    return LearnedPrior(coefficients, covariance, 1.0 if logit else 0.25, weight, posterior)


def prior_around(weight: Tensor, columns: int) -> LearnedPrior:
    """Return the start of the EM from estimates of weight [U, D]: a normal prior around 0 with their second moment."""
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
    """Fit the prior of w_e in label ~ offset + w_e . v(item), with a mean linear in content [U, F] (a constant first).

    Each round takes a damped Newton step for every entity, then updates the prior: A by ridge regression (without a
    penalty on the constant), S from the residuals and the posterior covariances, and for "squared" the noise variance.
    `partners` is the items' side. The result is `start` without rows.
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
    """Ridge regressions on content [U, F]: `root` [F, F] is the Cholesky factor of the regularized Gram matrix,
    `degrees_of_freedom` those of the residuals, at least .3 U."""

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
        """Return coefficients [F, D] for targets [U, D]."""
        return torch.cholesky_solve(torch.from_numpy(self.content.T @ target.numpy()), self.root)

    def predict(self, coefficients: Tensor) -> Tensor:
        """Return the predictions [U, D] of coefficients [F, D]."""
        return torch.from_numpy(self.content @ coefficients.numpy())


def _em_round(
    prior: LearnedPrior, rows: ClickRows, partners: FixedSide, regression: _RidgeRegression, likelihood: Likelihood
) -> LearnedPrior:
    """Run one round of EM: a damped Newton step for every entity, then the prior's moments."""
    logit, vectors = likelihood == "logistic", partners.vectors.double()
    row_vectors = vectors[rows.item]
    precision = torch.linalg.inv(prior.covariance)
    deviation = prior.weight - regression.predict(prior.coefficients)
    eta = partners.offset + (row_vectors * prior.weight[rows.task]).sum(1)
    mean = torch.sigmoid(eta) if logit else eta
    curvature = mean * (1 - mean) if logit else torch.full_like(mean, 1 / prior.variance)
    partner_curvature = torch.zeros_like(precision)
    if partners.covariance is not None:
        partner_curvature = _partner_covariance_sums(rows, curvature, partners.covariance)
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
    """Multiply matrices [D, D] or [U, D, D] with vectors [U, D], [U, D]."""
    return (matrix @ vector.unsqueeze(2)).squeeze(2)


def _weighted_outer_sums(rows: ClickRows, weight: Tensor, vectors: Tensor) -> Tensor:
    """Sum the outer products of the items' vectors [C, D] over each entity's rows with weight [R], [U, D, D]."""
    return segment_outer_sums(rows.pair_sums(weight.float()), vectors.float()).double()


def _partner_covariance_sums(rows: ClickRows, weight: Tensor, covariance: Tensor) -> Tensor:
    """Sum the covariances [C, D, D] of the items over each entity's rows with weight [R], [U, D, D].

    The expected loss of a row exceeds the loss at the mean of the item's vector by weight / 2 times w' covariance w.
    """
    dims = covariance.shape[1]
    sums = rows.pair_sums(weight) @ covariance.reshape(len(covariance), -1).numpy()
    return torch.from_numpy(sums).reshape(-1, dims, dims)


def _step_lengths(
    rows: ClickRows, eta: Tensor, direction: Tensor, step: Tensor, quadratics: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """Return the share of each entity's step [U, D] with the lowest loss (0 if none lowers it), [U, 1].

    eta and direction [R] are the logit and its change by a full step. Each of the quadratics, a matrix and a vector x
    [U, D] that the step moves, adds x' matrix x / 2 to the loss.
    """
    losses = []
    for length in (0.0, *_STEP_LENGTHS):
        logit = eta + length * direction
        loss = rows.task_sums(functional.softplus(logit) - rows.label * logit)
        for matrix, position in quadratics:
            loss = loss + 0.5 * (_multiply(matrix, position + length * step) * (position + length * step)).sum(1)
        losses.append(loss)
    return eta.new_tensor((0.0, *_STEP_LENGTHS))[torch.stack(losses).argmin(0)][:, None]
