"""The flagship for clicks: an exact Bernoulli posterior of an entity's weights under a prior that is learned.

A row of entity e on item i in context c, with b_i and v_i the item's bias and factors (`variational_mf`):

    x     = L' [1, v_i, g(c)]                     inputs of the entity's weights
    logit = base + b_i + h(c) + x . (m + z)       z ~ N(0, I): prior mean m, prior covariance L L'
    m     = start + B f_e + M (sum of x over the support) / (n + s)

h and g are additive in the fields of the context, h with one hidden layer on top. The mean depends on the entity's
features and on its exposure, the items and contexts in which it was shown so far, whatever the labels: where an entity
gets shown is informative about it. Given its rows, z has a Gaussian (Laplace) posterior after a few steps of
`laplace_posterior`, in which a row weighs t(n); its mode and curvature are the state. The score is the logit of the
mean probability, logit / sqrt(1 + pi / 8 k(n) var) (MacKay 1992); t and k are linear in log(1 + n) between learned
knots.

Everything but items' factors is trained by gradient through these steps on the query's log-loss. The factors of the
items that an entity of an episode met were fitted to its rows too, so its own labels would leak into its episode. In
training each entity therefore sees factors that were fitted without its fold (`CrossFittedFactors`). A temperature for
each support size is chosen at last on meta-validation entities (`calibrate`).

Nearest relatives: ALPaCA (Harrison 2018) and deep kernels, for squared loss; RESUS (2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import UNKNOWN, IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.models.functional.embeddings import embed_fields, is_buffer, select_fields
from recsys_meta.models.functional.interpolation import SIZE_KNOTS, support_size_weights
from recsys_meta.models.functional.laplace_posterior import (
    laplace_posterior,
    prediction_variance,
    probit_adjusted_logit,
)
from recsys_meta.models.functional.losses import logistic_loss, mean_over_tasks
from recsys_meta.models.functional.regularization import mask_entity_features
from recsys_meta.models.learners.bayesian.context_effects import context_effect, init_context
from recsys_meta.models.learners.bayesian.factorization_data import FactorizationData
from recsys_meta.models.learners.bayesian.temperature_scaling import fit_temperatures
from recsys_meta.models.learners.bayesian.variational_mf import FactorModel, fit_factors, leave_fold_out
from recsys_meta.models.protocols import ParamGroup, PredictorConfig

CONTEXT_DEVIATION = 0.3
"""Initial prior deviation of an entity's weights on factors of context."""
NOISE = 0.03
"""Standard deviation of the initial effects of features around those of the factorisation."""
MOST_ROWS = 2000
"""Bound on the rows by which training weighs an entity."""


class BernoulliConfig(PredictorConfig):
    """Configuration of `BernoulliPosterior`. `dims` bounds the factors of an item; there are fewer where the past rows
    are too few to determine so many."""

    objective: Literal["click"] = Field(default="click", description="objective of the data set")
    dims: int = Field(default=16, ge=0, description="length of vectors")
    sweeps: int = Field(default=20, ge=1, description="sweeps of the factorisation")
    folds: int = Field(default=8, ge=2, description="parts of the past entities, each with factors made without it")
    most_values: int = Field(default=1000, ge=1, description="features with more values are left out")
    context_dims: int = Field(default=4, ge=0, description="factors of a row's context")
    hidden: int = Field(default=16, ge=0, description="units of the hidden layer on the context")
    newton_steps: int = Field(default=4, ge=1, description="steps of Newton to the posterior mode")
    size_weight: float = Field(default=1.0, ge=0, le=1, description="an entity weighs (its rows)^this in training")
    audience: bool = Field(default=True, description="whether the prior mean knows to whom the entity was shown")
    unknown: float = Field(default=0.05, ge=0, lt=1, description="share of values hidden in training")
    decay: float = Field(default=0.1, ge=0, description="weight decay of effects of features")
    context_decay: float = Field(default=0.1, ge=0, description="weight decay of factors of context")
    slow: float = Field(default=0.3, gt=0, description="outer rate of prior, trust and heat over the others'")

    @property
    def steps(self) -> int:
        """Number of inner steps."""
        return self.newton_steps


@dataclass(frozen=True)
class CrossFittedFactors:
    """Factors of items for training: item [F + 1, C, K], each fitted without one fold of the entities, the last to all;
    fold [E] of each entity; its number of rows, rows [E]."""

    item: Tensor
    fold: Tensor
    rows: Tensor


@dataclass(frozen=True)
class BernoulliPosterior:
    """The learner of clicks that this module describes."""

    config: BernoulliConfig = field(default_factory=BernoulliConfig)
    name: ClassVar[str] = "bernoulli"
    Config: ClassVar[type[BernoulliConfig]] = BernoulliConfig
    objectives: ClassVar[frozenset[Objective]] = frozenset({"click"})

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fit factors to the given entities' rows and a prior to the factors. Raises ConfigError unless labels are
        clicks."""
        data.schema.require_objective("click", self.name)
        c = self.config
        past, model = self._factors(data, entities)
        extra = c.context_dims if past.context_fields.table else 0
        root = torch.linalg.cholesky(model.entity.prior_covariance).contiguous()
        prior = functional.pad(root, (0, extra, 0, extra)) + _context_deviations(len(root), extra)
        effects = torch.linalg.solve_triangular(root, model.entity.effects.T, upper=False).T
        effects = torch.cat([effects, effects.new_zeros(len(effects), extra)], 1)
        tables = effects + NOISE * torch.randn(effects.shape, generator=generator)
        width = len(prior)
        return {
            **past.entity_fields.bags("entity", tables),
            **init_context(past.context_fields, model.effects, extra, c.hidden, generator),
            "item": model.item.mean.contiguous(),
            "base": torch.tensor(model.level),
            "start": effects[0].clone(),
            "prior": prior,
            **(_audience_params(width, generator) if c.audience else {}),
            "log_trust": torch.zeros(len(SIZE_KNOTS)),
            "log_heat": torch.zeros(len(SIZE_KNOTS)),
            "slope": torch.ones(len(SIZE_KNOTS)),
        }

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> CrossFittedFactors:
        """Cross-fitted factors: one set for each fold of the entities, fitted without it."""
        past, model = self._factors(data, entities)
        folds = min(self.config.folds, len(entities))
        order = torch.randperm(len(entities), generator=generator).numpy()
        item = leave_fold_out(past.rows, model, order % folds, folds)
        fold = torch.full((data.events.entity_count,), folds)
        fold[torch.as_tensor(np.asarray(entities))] = torch.from_numpy(order % folds)
        # An entity with more rows is no longer new; it counts as one at the bound.
        most = min(MOST_ROWS, data.schema.past_rows or MOST_ROWS)
        rows = torch.from_numpy(np.array(data.events.counts)).float().clamp(1, most)
        return CrossFittedFactors(torch.cat([item, model.item.mean[None]]), fold, rows)

    def _factors(self, data: Dataset, entities: IntArray) -> tuple[FactorizationData, FactorModel]:
        past = FactorizationData.of(data, entities, self.config.most_values)
        return past, fit_factors(past, self.config.dims, self.config.sweeps)

    def is_frozen(self, key: str) -> bool:
        return is_buffer(key) or key in ("item", "slope")

    def param_group(self, key: str) -> ParamGroup:
        if key.startswith("context."):
            return ParamGroup(decay=self.config.context_decay)
        if key in ("prior", "base", "log_trust", "log_heat", "log_audience"):
            return ParamGroup(rate=self.config.slow)
        return ParamGroup(decay=self.config.decay if key == "audience" or key.startswith("entity.") else 0.0)

    def body(self, params: Params) -> Params:
        """The parameters, with the factors as those of a single fold, item [1, C, K]."""
        return params | {"item": params["item"][None]}

    def adapt(self, body: Params, support: Support) -> State:
        """mean [T, K] of the weights, the Cholesky factor [T, K, K] of their precision, and size [T]."""
        rows = replace(support.rows, label=support.rows.label.masked_fill(~support.rows.mask, 0.0))
        size = rows.counts
        base, x = self._inputs(body, rows)
        mean = self._mean(body, support.features, x, rows.mask, size)
        weight = rows.mask * (support_size_weights(size, SIZE_KNOTS) @ body["log_trust"]).exp()[:, None]
        z, factor = laplace_posterior(x, base + _dot(x, mean), rows.label, weight, self.config.newton_steps)
        return {"mean": mean + z, "factor": factor, "size": size}

    def _mean(self, body: Params, features: Mapping[str, Tensor], x: Tensor, mask: Tensor, size: Tensor) -> Tensor:
        """The prior mean [T, K]."""
        fields = embed_fields(body, "entity", select_fields(body, "entity", features))
        mean = torch.stack([body["start"].expand(len(size), -1), *fields]).sum(0)
        if not self.config.audience:
            return mean
        exposure = (x * mask.unsqueeze(2)).sum(1) / (size + body["log_audience"].exp())[:, None]
        return mean + exposure @ body["audience"]

    def _inputs(self, body: Params, rows: Interactions) -> tuple[Tensor, Tensor]:
        """Logits of rows without the entity's weights [T, R], and the inputs of those weights, x [T, R, K]."""
        folds = body["item"]
        item = torch.where(rows.item < folds.shape[1], rows.item, UNKNOWN)
        factors = folds[body["fold"][:, None] if "fold" in body else torch.zeros_like(item), item]
        base, inputs = body["base"] + factors[..., 0], [torch.ones_like(factors[..., :1]), factors[..., 1:]]
        context = context_effect(body, rows, self.config.hidden)
        if context is not None:
            base, inputs = base + context[0], [*inputs, context[1]]
        return base, torch.cat(inputs, 2) @ body["prior"].tril()

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return (support_size_weights(state["size"], SIZE_KNOTS) @ body["slope"])[:, None] * self._logit(
            body, state, rows
        )

    def _logit(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Logit [T, R] of the mean probability under the posterior, before calibration."""
        base, x = self._inputs(body, rows)
        heat = (support_size_weights(state["size"], SIZE_KNOTS) @ body["log_heat"]).exp()[:, None]
        return probit_adjusted_logit(base + _dot(x, state["mean"]), heat * prediction_variance(x, state["factor"]))

    def score_std(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Standard deviation [T, R] of the logit under the posterior."""
        return prediction_variance(self._inputs(body, rows)[1], state["factor"]).sqrt()

    def rank(self, body: Params, state: State) -> Tensor:
        """Scores [T, C] of the catalogue in a row without context."""
        item = torch.arange(body["item"].shape[1], device=body["item"].device).expand(len(state["size"]), -1)
        none = torch.zeros_like(item, dtype=torch.float32)
        return self.score(body, state, Interactions(item, none, none.bool()))

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        rows = replace(support.rows, label=support.rows.label.masked_fill(~support.rows.mask, 0.0))
        return logistic_loss(self.score(body, state, rows), rows)

    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: CrossFittedFactors, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean log-loss of the query after adapting; logs the largest and the smallest deviation of the prior."""
        device = batch.entity.device
        body = params | {"item": training_state.item.to(device), "fold": training_state.fold.to(device)[batch.entity]}
        state = self.adapt(body, mask_entity_features(batch, self.config.unknown, generator))
        losses = logistic_loss(self._logit(body, state, batch.query), batch.query)
        rows = training_state.rows.to(device)[batch.whole.entity]
        weight = rows**self.config.size_weight * batch.whole.query.mask.any(1)
        deviation = params["prior"].detach().tril().norm(dim=1)
        metrics = {"prior_largest": deviation.max(), "prior_smallest": deviation.min()}
        return mean_over_tasks(losses, weight, batch.shard), metrics

    @torch.no_grad()
    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """Choose the temperature at each support size on meta-validation episodes."""
        batches = [b for b in episodes if b.query.mask.any()]
        if not batches:
            return params
        body = self.body(params)
        sizes = [float(b.support.rows.counts.mean()) for b in batches]
        logits = [self._logit(body, self.adapt(body, b.support), b.query) for b in batches]
        return params | {"slope": fit_temperatures(sizes, logits, [b.query for b in batches], SIZE_KNOTS)}


def _audience_params(width: int, generator: torch.Generator) -> Params:
    audience = NOISE * torch.randn(width, width, generator=generator)
    return {"audience": audience, "log_audience": torch.tensor(math.log(10.0))}


def _context_deviations(width: int, extra: int) -> Tensor:
    """Initial prior of the factors of context, on the last `extra` diagonal entries, [width + extra, width + extra]."""
    return torch.diag(torch.cat([torch.zeros(width), torch.full((extra,), CONTEXT_DEVIATION)]))


def _dot(x: Tensor, weights: Tensor) -> Tensor:
    """x [T, R, K] times weights [T, K], [T, R]."""
    return (x @ weights.unsqueeze(2)).squeeze(2)
