"""Mixed logit of clicks: additive effects of context and items plus an entity's weights under a learned prior."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, IntArray, Interactions, Params, State, Support
from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.baselines.click.solvers.additive_logit import Likelihood, fit_additive
from recsys_meta.models.baselines.click.solvers.click_rows import ClickRows
from recsys_meta.models.baselines.click.solvers.field_encoding import (
    encode_side,
    fill_tables,
    init_tables,
    item_indicators,
    mean_context_effect,
    total_context_effect,
    total_effect,
)
from recsys_meta.models.functional.laplace_posterior import newton_laplace_posterior, probit_adjusted_logit
from recsys_meta.models.functional.linear_algebra import solve, weighted_outer_sum

CLICK_OBJECTIVES: frozenset[Objective] = frozenset({"click"})
MIN_PROBABILITY, MAX_PROBABILITY = 0.02, 0.98
"""Bounds of a probability predicted by the linear model."""
MAX_COLUMNS = 2_000
"""Most columns of entity features, the most common ones, in the regression of the prior's mean."""


class MixedLogit(BaselineConfig):
    """Base class of the mixed models: label ~ base(item) + context(row) + w_e . v(item), with w_e ~ N(A x_e, S) learned
    from training entities (empirical Bayes) and conditioned on the support of a new one.

    The likelihood is logistic (Laplace posterior by Newton steps) or, with `squared`, Gaussian: a closed form whose
    prediction is clipped to [.02, .98]. `trust` multiplies S. A subclass defines base and v.
    """

    objectives: ClassVar[frozenset[Objective]] = CLICK_OBJECTIVES
    fit_fields: ClassVar[frozenset[str]] = frozenset({"squared", "ridge", "content"})
    body_fields: ClassVar[frozenset[str]] = frozenset({"trust"})
    cold_fields: ClassVar[frozenset[str]] = frozenset({"squared", "ridge", "content", "trust"})

    objective: Objective = "click"
    squared: bool = False
    ridge: float = Field(default=3.0, gt=0, description="shrinkage of additive effects, in rows")
    content: float = Field(default=1.0, gt=0, description="ridge of the prior's regression on entity features")
    trust: float = Field(default=1.0, gt=0)

    @property
    def likelihood(self) -> Likelihood:
        return "squared" if self.squared else "logistic"

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        rows = ClickRows.of(data, entities)
        additive = fit_additive_effects(rows, self.ridge, self.likelihood, items=self.has_item_effects())
        tables = (
            init_tables("entity", data.entities, np.asarray(entities, np.int64)) if self.has_content_prior() else {}
        )
        columns = encode_side(tables, "entity", rows.features, rows.entities)
        common = np.argsort(-columns.getnnz(0), kind="stable")[:MAX_COLUMNS]
        common = np.sort(common[columns.getnnz(0)[common] > 0])
        constant = sp.csr_matrix(np.ones((rows.entities, 1)))
        entity_prior = self.fit_entity_prior(data, rows, additive, sp.hstack([constant, columns[:, common]], "csr"))
        coefficients = entity_prior.pop("prior")
        weight = coefficients.new_zeros(columns.shape[1], coefficients.shape[1])
        weight[torch.from_numpy(common)] = coefficients[1:]
        return {
            **additive.params,
            **entity_prior,
            "start": coefficients[0],
            **fill_tables(tables, "entity", weight, columns),
        }

    def has_item_effects(self) -> bool:
        """Return True if each item has an additive effect of its own."""
        return True

    def has_content_prior(self) -> bool:
        """Return True if the mean of the prior depends on the entity's features."""
        return True

    @abstractmethod
    def fit_entity_prior(
        self, data: Dataset, rows: ClickRows, additive: AdditiveEffects, content: sp.csr_matrix
    ) -> Params:
        """Fit "vectors" [C, D] and the prior of an entity's weights on them (see `LearnedPrior.to_params`).

        content [U, F] are the columns of the entities' features, a constant first. A "base" [C] in the result replaces
        that of the additive effects.
        """

    def body(self, params: Params) -> Params:
        return {**params, "precision": params["precision"] / self.trust}

    def adapt(self, body: Params, support: Support) -> State:
        rows = support.rows
        content = total_effect(body, "entity", support.features)
        mean = (body["start"] if content is None else body["start"] + content).expand(support.size, -1)
        vectors, weight = body["vectors"][rows.item], rows.mask.to(rows.label.dtype)
        offset = self._offset(body, rows)
        if not self.squared:
            mode, covariance = newton_laplace_posterior(vectors, rows.label, weight, offset, mean, body["precision"])
        else:
            noise = 1 / body["variance"]
            matrix = weighted_outer_sum(vectors, weight * noise) + body["precision"]
            residual = (rows.label - offset) * weight * noise
            target = (vectors * residual.unsqueeze(2)).sum(1) + mean @ body["precision"]
            mode, covariance = solve(matrix, target), torch.linalg.inv(matrix)
        return {"mode": mode, "root": torch.linalg.cholesky(covariance)}

    @staticmethod
    def _offset(body: Params, rows: Interactions) -> Tensor:
        context = total_context_effect(body, rows)
        base = body["base"][rows.item]
        return base if context is None else base + context.squeeze(2)

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        vectors = body["vectors"][rows.item]
        eta = self._offset(body, rows) + torch.einsum("trd,td->tr", vectors, state["mode"])
        return self._logit(eta, (vectors @ state["root"]).square().sum(2))

    def rank(self, body: Params, state: State) -> Tensor:
        vectors = body["vectors"]
        context = mean_context_effect(body)
        base = body["base"] if context is None else body["base"] + context
        return self._logit(base + state["mode"] @ vectors.T, (vectors @ state["root"]).square().sum(2))

    def score_std(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Return the standard deviation [T, R] of the logit under the posterior of the entity's weights."""
        vectors = body["vectors"][rows.item]
        deviation = (vectors @ state["root"]).square().sum(2).sqrt()
        if not self.squared:
            return deviation
        p = torch.sigmoid(self.score(body, state, rows))
        return deviation / (p * (1 - p))

    def _logit(self, eta: Tensor, variance: Tensor) -> Tensor:
        return (
            torch.logit(eta.clamp(MIN_PROBABILITY, MAX_PROBABILITY))
            if self.squared
            else probit_adjusted_logit(eta, variance)
        )


@dataclass(frozen=True)
class AdditiveEffects:
    """Additive effects: `params` have those of items ("base" [C]) and the tables of the context.

    `context` [R] is the effect of each training row's context, `entity` [U] that of each training entity.
    """

    params: Params
    context: Tensor
    entity: Tensor


def fit_additive_effects(
    rows: ClickRows, ridge: float, likelihood: Likelihood, *, items: bool, entities: bool = True
) -> AdditiveEffects:
    """Fit the effects of items, context and entities jointly.

    A joint fit keeps the effect of good entities out of those of their items and positions. Without `items` or
    `entities` these have no effects of their own.
    """
    tables = init_tables("context", rows.context, np.arange(len(rows)))
    context = encode_side(tables, "context", rows.context_features(), len(rows))
    indicators = [item_indicators(rows.catalogue)] if items else []
    per_item = sp.hstack([sp.csr_matrix(np.ones((rows.catalogue, 1))), *indicators], "csr")
    entity_columns = sp.csr_matrix(
        (np.ones(len(rows)), (np.arange(len(rows)), rows.task.numpy())), (len(rows), rows.entities)
    )
    columns = sp.hstack([per_item[rows.item.numpy()], context, *([entity_columns] if entities else [])], "csr")
    penalty = np.full(columns.shape[1], ridge)
    penalty[0] = 1e-3
    weight = fit_additive(columns, rows.label, penalty, likelihood)
    item_end, context_end = per_item.shape[1], per_item.shape[1] + context.shape[1]
    base = torch.from_numpy(per_item @ weight[:item_end].numpy())
    base[:FIRST] = weight[0]
    context_tables = fill_tables(tables, "context", weight[item_end:context_end, None], context)
    row_effect = torch.from_numpy(context @ weight[item_end:context_end].numpy())
    entity_effect = weight[context_end:] if entities else weight.new_zeros(rows.entities)
    return AdditiveEffects({"base": base.float(), **context_tables}, row_effect, entity_effect)
