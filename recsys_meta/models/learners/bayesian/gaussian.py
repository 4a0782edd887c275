"""The flagship for ratings: an exact Gaussian posterior of an entity's weights under a prior that is learned.

The label of entity e on item i after n rows of support, in standardized units, with b_i and v_i the item's bias and
factors (`gaussian_mf`) and d_i a learned correction of the factors:

    x_i   = L' [1, v_i + d_i, b_i]                inputs of the entity's weights
    label = b_i + c(n) + x_i . (m + z) + noise    z ~ N(0, I): prior mean m, prior covariance L L'
    m     = start + B f_e + M (sum of [x_j, log(1 + count_j)] over the support) / (n + r)
    noise ~ N(0, v(n) + u_i)                      u_i: an item that was rated little is not known well

The mean depends on the entity's features and on its exposure, the items that it has met so far, whatever the labels.
Given its rows, z has a Gaussian posterior in closed form by one Cholesky factor. v and c are linear in log(1 + n)
between learned knots: v(n) says how far n rows are to be trusted where the model is not exactly true, c(n) what the
rows after the n-th have that those before have not, where rows are in the order of time.

All but factors, biases and their uncertainty is trained by gradient through the posterior on the query's squared error
or, with `loss` "likelihood", on its Gaussian negative log-likelihood. The factors were fitted to the entity's own
labels too, so in training each entity sees factors that were fitted without its fold (`CrossFittedItems`). The scale of
the variances is fitted at last on meta-validation entities (`calibrate`).

Nearest relatives: ALPaCA (Harrison 2018), R2-D2 (Bertinetto 2019); SVD++ (Koren 2008) for the exposure.
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
from recsys_meta.models.functional.gaussian_posterior import whitened_posterior
from recsys_meta.models.functional.interpolation import SIZE_KNOTS, support_size_weights
from recsys_meta.models.functional.laplace_posterior import prediction_variance
from recsys_meta.models.functional.losses import mean_over_rows, mean_over_tasks, squared_error
from recsys_meta.models.functional.regularization import dropout, mask_entity_features
from recsys_meta.models.learners.bayesian.factorization_data import FactorizationData
from recsys_meta.models.learners.bayesian.gaussian_mf import RatingFactors, fit_rating_factors
from recsys_meta.models.protocols import ParamGroup, PredictorConfig

NOISE = 0.03
"""Standard deviation of the initial effects of features around those of the factorization."""
BIAS_DEVIATION = 0.1
"""Initial prior deviation of an entity's weight on items' biases."""


class GaussianPosteriorConfig(PredictorConfig):
    """Configuration of `GaussianPosteriorLearner`."""

    objective: Literal["rating"] = Field(default="rating", description="objective of the data set")
    dims: int = Field(default=8, ge=0, description="factors of an item")
    sweeps: int = Field(default=20, ge=1, description="sweeps of the factorization")
    folds: int = Field(default=8, ge=2, description="parts of the past entities, each with factors made without it")
    most_values: int = Field(default=1000, ge=1, description="features with more values are left out")
    loss: Literal["squared", "likelihood"] = Field(
        default="squared", description="meta-loss: squared error of predictions, or their likelihood"
    )
    size_weight: float = Field(
        default=0.0, ge=0, le=1, description="an entity weighs (its query rows)^this in training"
    )
    exposure: bool = Field(default=True, description="whether the prior mean knows which items the entity met")
    unknown: float = Field(default=0.05, ge=0, lt=1, description="share of the entity's values hidden in training")
    correction: float = Field(default=0.0, ge=0, description="outer rate of the items' corrections; 0: there are none")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout of corrections, while training")
    correction_decay: float = Field(default=1.0, ge=0, description="weight decay of corrections")
    decay: float = Field(default=0.3, ge=0, description="weight decay of effects of features and of the exposure")
    slow: float = Field(default=0.3, gt=0, description="outer rate of prior and noise over the others'")


@dataclass(frozen=True)
class CrossFittedItems:
    """Biases and factors of items for training: factors [F + 1, C, 1 + K], each fitted without one fold of the
    entities, the last to all; fold [E] of each entity of the data set."""

    factors: Tensor
    fold: Tensor


@dataclass(frozen=True)
class GaussianPosteriorLearner:
    """The learner of ratings that this module describes."""

    config: GaussianPosteriorConfig = field(default_factory=GaussianPosteriorConfig)
    name: ClassVar[str] = "gaussian-posterior"
    Config: ClassVar[type[GaussianPosteriorConfig]] = GaussianPosteriorConfig
    objectives: ClassVar[frozenset[Objective]] = frozenset({"rating"})

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fit factors to the given entities' rows and a prior to the factors. Raises ConfigError unless labels are
        ratings."""
        data.schema.require_objective("rating", self.name)
        c = self.config
        past, model = self._factors(data, entities)
        root = torch.linalg.cholesky(model.entity.prior_covariance).contiguous()
        effects = torch.linalg.solve_triangular(root, model.entity.effects.T, upper=False).T
        effects = functional.pad(effects, (0, 1))
        tables = effects + NOISE * torch.randn(effects.shape, generator=generator)
        prior = functional.pad(root, (0, 1, 0, 1))
        prior[-1, -1] = BIAS_DEVIATION
        log_count = torch.log1p(torch.bincount(torch.from_numpy(model.rows.item), minlength=data.catalogue).float())
        width = len(prior)
        return {
            **past.entity_fields.bags("entity", tables),
            "factors": model.item.mean.contiguous(),
            "uncertainty": model.uncertainty.contiguous(),
            "popularity": log_count - log_count.mean(),
            "mean_label": torch.tensor(model.mean),
            "unit": torch.tensor(model.unit),
            "start": effects[0].clone(),
            "prior": prior,
            "level_by_size": torch.zeros(len(SIZE_KNOTS)),
            "log_noise": torch.full((len(SIZE_KNOTS),), math.log(model.noise)),
            "log_doubt": torch.tensor(0.0),
            "heat": torch.ones(len(SIZE_KNOTS)),
            **({"correction": torch.zeros(data.catalogue, c.dims)} if c.correction and c.dims else {}),
            **(_exposure_params(width, generator) if c.exposure else {}),
        }

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> CrossFittedItems:
        """Cross-fitted factors: one set for each fold of the entities, fitted without it."""
        _, model = self._factors(data, entities)
        folds = min(self.config.folds, len(entities))
        part = torch.randperm(len(entities), generator=generator) % folds
        factors = model.without_folds(part.numpy(), folds)
        fold = torch.full((data.events.entity_count,), folds)
        fold[torch.as_tensor(np.asarray(entities))] = part
        return CrossFittedItems(torch.cat([factors, model.item.mean[None]]), fold)

    def _factors(self, data: Dataset, entities: IntArray) -> tuple[FactorizationData, RatingFactors]:
        past = FactorizationData.of(data, entities, self.config.most_values)
        return past, fit_rating_factors(past, self.config.dims, self.config.sweeps)

    def is_frozen(self, key: str) -> bool:
        return is_buffer(key) or key in ("factors", "uncertainty", "popularity", "mean_label", "unit", "heat")

    def param_group(self, key: str) -> ParamGroup:
        if key == "correction":
            return ParamGroup(rate=self.config.correction, decay=self.config.correction_decay)
        if key == "prior" or key.startswith("log_"):
            return ParamGroup(rate=self.config.slow)
        return ParamGroup(decay=self.config.decay if key == "exposure" or key.startswith("entity.") else 0.0)

    def body(self, params: Params) -> Params:
        """The parameters, with features [1, C, P] of the items, the last of which is their bias."""
        return _item_body(params, params["factors"][None], params.get("correction"))

    def adapt(self, body: Params, support: Support) -> State:
        """mean [T, P] of the weights, the Cholesky factor [T, P, P] of their precision, and size [T]."""
        rows = replace(support.rows, label=support.rows.label.masked_fill(~support.rows.mask, 0.0))
        size, item = rows.counts, _known_items(body, rows.item)
        level, x = _inputs(body, item)
        mean = self._prior_mean(body, support.features, x, body["popularity"][item], rows.mask)
        noise = _at_size(body["log_noise"], size).exp()[:, None] + body["doubt"][item]
        residual = (rows.label - body["mean_label"]) / body["unit"] - level - _dot(x, mean)
        z, factor = whitened_posterior(x, residual, rows.mask / noise)
        return {"mean": mean + z, "factor": factor, "size": size}

    def _prior_mean(
        self, body: Params, features: Mapping[str, Tensor], x: Tensor, popularity: Tensor, mask: Tensor
    ) -> Tensor:
        """Prior mean m [T, P] of the weights, from the entity's features and the items that it met: their inputs
        x [T, S, P] and popularity [T, S]."""
        fields = embed_fields(body, "entity", select_fields(body, "entity", features))
        mean = torch.stack([body["start"].expand(len(x), -1), *fields]).sum(0)
        if not self.config.exposure:
            return mean
        met = torch.cat([x, popularity.unsqueeze(2)], 2) * mask.unsqueeze(2)
        share = met.sum(1) / (mask.sum(1, keepdim=True) + body["log_exposure"].exp())
        return mean + share @ body["exposure"]

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return body["mean_label"] + body["unit"] * _standardized_label(body, state, _known_items(body, rows.item))

    def rank(self, body: Params, state: State) -> Tensor:
        """Expected labels [T, C] of the catalogue."""
        features = body["features"][0]
        weights = state["mean"] @ body["prior"].tril().T
        shift = _at_size(body["level_by_size"], state["size"])[:, None]
        return body["mean_label"] + body["unit"] * (features[:, -1] + shift + weights @ features.T)

    def score_std(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Standard deviation [T, R] of the expected label: what is not known of the entity's weights and of the item.
        The noise of a single label is not part of it."""
        expected, _ = _label_variances(body, state, _known_items(body, rows.item))
        return body["unit"] * (_at_size(body["heat"], state["size"])[:, None] * expected).sqrt()

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        rows = replace(support.rows, label=support.rows.label.masked_fill(~support.rows.mask, 0.0))
        return squared_error(self.score(body, state, rows), rows)

    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: CrossFittedItems, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean loss of the query after adapting, in standardized units; logs the largest and the smallest deviation of
        the prior."""
        c, device = self.config, batch.entity.device
        correction = dropout(params["correction"], c.dropout, generator) if "correction" in params else None
        body = _item_body(params, training_state.factors.to(device), correction)
        body["fold"] = training_state.fold.to(device)[batch.entity]
        state = self.adapt(body, mask_entity_features(batch, c.unknown, generator))
        item = _known_items(body, batch.query.item)
        label = ((batch.query.label - body["mean_label"]) / body["unit"]).masked_fill(~batch.query.mask, 0.0)
        loss = (_standardized_label(body, state, item) - label).square()
        if c.loss == "likelihood":
            variance = torch.stack(_label_variances(body, state, item)).sum(0)
            loss = 0.5 * (loss / variance + variance.log())
        every = batch.whole.query
        weight = every.counts**c.size_weight * every.mask.any(1)
        deviation = params["prior"].detach().tril().norm(dim=1)
        metrics = {"prior_largest": deviation.max(), "prior_smallest": deviation.min()}
        return mean_over_tasks(mean_over_rows(loss, batch.query.mask), weight, batch.shard), metrics

    @torch.no_grad()
    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """Scale the variances at each support size to the squared errors on meta-validation episodes."""
        batches = [b for b in episodes if b.query.mask.any()]
        if not batches:
            return params
        body = self.body(params)
        ratios = {float(b.support.rows.counts.mean()): self._error_ratio(body, b) for b in batches}
        sizes = sorted(ratios)
        heat = np.interp(np.log1p(SIZE_KNOTS), np.log1p(sizes), [ratios[size] for size in sizes])
        return params | {"heat": torch.from_numpy(heat.astype(np.float32))}

    def _error_ratio(self, body: Params, batch: TaskBatch) -> float:
        """Mean squared error of a batch's query over the mean variance that the model gave it."""
        state, item = self.adapt(body, batch.support), _known_items(body, batch.query.item)
        error = self.score(body, state, batch.query) - batch.query.label
        variance = body["unit"].square() * torch.stack(_label_variances(body, state, item)).sum(0)
        mask = batch.query.mask
        return float(error[mask].square().mean() / variance[mask].mean())


def _exposure_params(width: int, generator: torch.Generator) -> Params:
    exposure = NOISE * torch.randn(width + 1, width, generator=generator)
    return {"exposure": exposure, "log_exposure": torch.tensor(2.0)}


def _item_body(params: Params, factors: Tensor, correction: Tensor | None) -> Params:
    """The parameters with features [F, C, P] of the items, from biases and factors [F, C, 1 + K] and corrections
    [C, K], and with the variance that an item's uncertainty adds to a label, doubt [C]."""
    bias, vectors = factors[:, :, :1], factors[:, :, 1:]
    vectors = vectors if correction is None else vectors + correction
    left = {k: v for k, v in params.items() if k not in ("factors", "correction", "uncertainty")}
    return left | {
        "features": torch.cat([torch.ones_like(bias), vectors, bias], 2),
        "doubt": params["log_doubt"].exp() * params["uncertainty"],
    }


def _known_items(body: Params, item: Tensor) -> Tensor:
    """Items [T, R] with UNKNOWN for those outside the catalogue."""
    return torch.where(item < body["features"].shape[1], item, UNKNOWN)


def _inputs(body: Params, item: Tensor) -> tuple[Tensor, Tensor]:
    """Biases [T, R] of items [T, R] and the inputs of the entity's weights, x [T, R, P]: in training without the
    entity's fold."""
    fold = body["fold"][:, None] if "fold" in body else torch.zeros_like(item)
    features = body["features"][fold, item]
    return features[..., -1], features @ body["prior"].tril()


def _standardized_label(body: Params, state: State, item: Tensor) -> Tensor:
    """Expected labels [T, R] of items [T, R] in standardized units."""
    level, x = _inputs(body, item)
    return level + _at_size(body["level_by_size"], state["size"])[:, None] + _dot(x, state["mean"])


def _label_variances(body: Params, state: State, item: Tensor) -> tuple[Tensor, Tensor]:
    """Variances [T, R] of the expected label and of a label around it, standardized, before calibration."""
    _, x = _inputs(body, item)
    noise = _at_size(body["log_noise"], state["size"]).exp()[:, None].expand(item.shape)
    return prediction_variance(x, state["factor"]) + body["doubt"][item], noise


def _at_size(values: Tensor, size: Tensor) -> Tensor:
    """Values [T] at the support sizes [T] between those at the knots [K]."""
    return support_size_weights(size, SIZE_KNOTS) @ values


def _dot(x: Tensor, weights: Tensor) -> Tensor:
    """x [T, R, P] times weights [T, P], [T, R]."""
    return (x @ weights.unsqueeze(2)).squeeze(2)
