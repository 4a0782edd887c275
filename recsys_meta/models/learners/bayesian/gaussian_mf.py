"""Variational Gaussian factorization: factors of entities and items from ratings, in closed form, before any episode.

    label = base + a_e + b_i + w_e . v_i + noise        of entity e and item i, in standardized units

[b_i, v_i] ~ N(A' f_i, P) and [a_e, w_e] ~ N(B' f_e, Q) with f their features; noise ~ N(0, s). The two sides are solved
in turn, and A, B, P, Q and s are set to their best fit (Lim & Teh 2007). As the uncertainty of one side enters the
solution of the other, an item that was rated twice stays near what its features suggest, and nothing has to be tuned
against over-fitting. `variational_mf` is the same for clicks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import IntArray
from recsys_meta.models.learners.bayesian.factorization_data import FactorizationData, InteractionRows
from recsys_meta.models.learners.bayesian.variational_mf import (
    LatentSide,
    fit_side_prior,
    predict_rows,
    refit_without_folds,
    solve_side,
)

LEAST_NOISE = 1e-3
"""Least variance of the noise, in standardized units."""


@dataclass(frozen=True)
class RatingFactors:
    """A fitted factorization: label = mean + unit * standardized label; noise is the variance of the latter around the
    prediction, and rows hold the standardized labels."""

    mean: float
    unit: float
    noise: float
    entity: LatentSide
    item: LatentSide
    rows: InteractionRows

    @property
    def uncertainty(self) -> Tensor:
        """Variance [C] of the label of an average entity that comes from not knowing the item well."""
        prior = self.entity.prior_covariance.clone()
        prior[0], prior[:, 0] = 0, 0
        spread: Tensor = self.item.covariance[:, 0, 0] + (self.item.covariance * prior).sum((1, 2))
        return spread

    def without_folds(self, fold: IntArray, folds: int) -> Tensor:
        """[bias, factors] of items without the rows of each fold's entities, [folds, C, K]; fold [entities]."""
        weight = np.full(len(self.rows.label), 1 / self.noise, np.float32)
        return refit_without_folds(self.rows, weight, self.rows.label / self.noise, self.entity, self.item, fold, folds)


def fit_rating_factors(past: FactorizationData, dims: int, sweeps: int) -> RatingFactors:
    """Fit both sides with `dims` factors. Deterministic: equal rows give equal factors."""
    label = past.rows.label
    mean = float(label.mean()) if len(label) else 0.0
    unit = (float(label.std()) if len(label) else 0.0) or 1.0
    rows = replace(past.rows, label=((label - mean) / unit).astype(np.float32))
    generator, width = torch.Generator().manual_seed(0), 1 + dims
    item = LatentSide.fresh(rows.catalogue, past.item_design.shape[1], width, generator)
    entity = LatentSide.fresh(rows.entities, past.entity_design.shape[1], width, generator)
    noise = 1.0
    counts, sums = rows.table(np.ones(len(label), np.float32)), rows.table(rows.label)
    for _ in range(sweeps):
        weights, pulls = counts * np.float32(1 / noise), sums * np.float32(1 / noise)
        entity = fit_side_prior(solve_side(weights, pulls, item, entity), past.entity_design)
        item = fit_side_prior(solve_side(weights.T.tocsr(), pulls.T.tocsr(), entity, item), past.item_design)
        noise = max(_mean_squared_error(rows, entity, item), LEAST_NOISE) if len(label) else noise
    return RatingFactors(mean, unit, noise, entity, item, rows)


def _mean_squared_error(rows: InteractionRows, entity: LatentSide, item: LatentSide) -> float:
    """Expected squared error of a row under the posteriors of both sides."""
    mean, variance = predict_rows(rows, entity, item)
    return float(np.mean(np.square(rows.label - mean) + variance))
