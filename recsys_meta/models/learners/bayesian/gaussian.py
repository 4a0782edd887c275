"""The flagship for ratings: an exact Gaussian posterior of an entity's weights over meta-learned features of items.

The label of entity e on item i, in standardized units, given n rows of support:

    e_i   = t_i E_i + W f_i                       features of an item: its own, trusted by its number of rows, and those
                                                  of what is known about it
    b_i   = (S_i + s B f_i) / (n_i + s)           level: the sum of its past labels, shrunk toward what f_i suggests
    x_i   = L' [1, e_i]                           inputs of the entity's weights
    label = b_i + c(n) + x_i . (m + z) + noise    z ~ N(0, I): prior mean m, prior covariance L L'
    m     = start + V f_e + M (sum of [x_j, log(1 + n_j)] over the support) / (n + r)
    noise ~ N(0, v(n) (1 + d / (n_i + s)))        an item with few past labels has an uncertain level

The mean depends on the entity's features and on its exposure, the items that it has met so far, whatever their labels.
Given its rows, z has a Gaussian posterior in closed form by one Cholesky factor. v and c are linear in log(1 + n)
between learned knots: v(n) says how far n rows are to be trusted where the model is not exactly true, c(n) what the
rows after the n-th have that those before have not, where rows are in the order of time.

All but sums and numbers of labels is trained by gradient through the posterior on the query's squared error or, with
`loss` "likelihood", on its Gaussian negative log-likelihood. The sums hold the entity's own labels, so in training each
entity sees sums without its fold (`CrossFittedLabels`); a share of the items counts as new in each step, so that their
features learn to stand alone. The scale of the variances is fitted at last on meta-validation entities (`calibrate`).

Nearest relatives: ALPaCA (Harrison 2018), R2-D2 (Bertinetto 2019); SVD++ (Koren 2008) for the exposure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, UNKNOWN, IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.models.functional.embeddings import (
    catalogue_features,
    embed_fields,
    init_embedding_bag,
    is_buffer,
    item_features,
    select_fields,
)
from recsys_meta.models.functional.feature_tables import limit_cardinality
from recsys_meta.models.functional.gaussian_posterior import whitened_posterior
from recsys_meta.models.functional.interpolation import SIZE_KNOTS, support_size_weights
from recsys_meta.models.functional.laplace_posterior import prediction_variance
from recsys_meta.models.functional.losses import mean_over_rows, mean_over_tasks, squared_error
from recsys_meta.models.functional.regularization import dropout, mask_features
from recsys_meta.models.learners.bayesian.item_labels import CrossFittedLabels, StandardizedLabels
from recsys_meta.models.protocols import ParamGroup, PredictorConfig

LEAST_DEVIATION = 0.1
"""Least initial prior deviation of an entity's level, in standardized units."""
NOISE = 0.03
"""Standard deviation of the initial effects of features."""


class GaussianPosteriorConfig(PredictorConfig):
    """Configuration of `GaussianPosteriorLearner`."""

    objective: Literal["rating"] = "rating"
    dims: int = Field(default=16, ge=0, description="learned features of an item beside the constant")
    scale: float = Field(default=0.1, gt=0, description="standard deviation of items' own features at the start")
    folds: int = Field(default=8, ge=2, description="parts of the past entities, each with item sums without it")
    most_values: int = Field(default=1000, ge=1, description="features with more values are left out")
    loss: Literal["squared", "likelihood"] = "squared"
    size_weight: float = Field(default=0.0, ge=0, le=1, description="a task weighs (query rows)^this")
    exposure: bool = Field(default=True, description="whether the prior mean knows which items the entity met")
    unknown: float = Field(default=0.05, ge=0, lt=1, description="share of the entity's values hidden in training")
    new_items: float = Field(default=0.05, ge=0, lt=1, description="share of items that count as new in a step")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="on items' own features, while training")
    decay: float = Field(default=0.3, ge=0, description="weight decay of items' own features")
    feature_decay: float = Field(default=0.1, ge=0, description="weight decay of effects of features")
    slow: float = Field(default=0.3, gt=0, description="outer rate of prior, shrinkages and noise over the others'")


@dataclass(frozen=True)
class GaussianPosteriorLearner:
    """The learner of ratings that this module describes."""

    config: GaussianPosteriorConfig = field(default_factory=GaussianPosteriorConfig)
    name: ClassVar[str] = "gaussian-posterior"
    Config: ClassVar[type[GaussianPosteriorConfig]] = GaussianPosteriorConfig
    objectives: ClassVar[frozenset[Objective]] = frozenset({"rating"})

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fresh parameters, with sums and numbers of the given entities' labels. Raises ConfigError unless labels are
        ratings."""
        if data.schema.objective != "rating":
            raise ConfigError(
                f"'{self.name}' predicts ratings, but '{data.schema.name}' has objective '{data.schema.objective}'"
            )
        c, width = self.config, self.config.dims + 1
        labels = StandardizedLabels.of(data, entities)
        total, count = labels.item_sums(data.catalogue)
        items, features = (limit_cardinality(table, c.most_values) for table in (data.items, data.entities))
        own = torch.randn(data.catalogue, c.dims, generator=generator) * c.scale
        own[:FIRST] = 0
        level = labels.spread.clamp(min=LEAST_DEVIATION).reshape(1)
        return {
            **init_embedding_bag("items", items, np.arange(FIRST, data.catalogue), width, NOISE, generator),
            **init_embedding_bag("entity", features, np.asarray(entities), width, NOISE, generator),
            **item_features(items),
            "item": own,
            "total": total,
            "count": count,
            "mean_label": labels.mean,
            "unit": labels.unit,
            "start": torch.zeros(width),
            "prior": torch.diag(torch.cat([level, torch.ones(c.dims)])),
            "level_by_size": torch.zeros(len(SIZE_KNOTS)),
            "log_shrink": torch.tensor(1.5),
            "log_trust": torch.tensor(1.5),
            "log_doubt": torch.tensor(0.0),
            "log_noise": torch.full((len(SIZE_KNOTS),), -0.5),
            "heat": torch.ones(len(SIZE_KNOTS)),
            **(_exposure_params(width, generator) if c.exposure else {}),
        }

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> CrossFittedLabels:
        """Sums of items' labels without each fold of the entities."""
        return CrossFittedLabels.of(data, entities, self.config.folds, generator)

    def is_frozen(self, key: str) -> bool:
        return is_buffer(key) or key in ("total", "count", "mean_label", "unit", "heat")

    def param_group(self, key: str) -> ParamGroup:
        if key == "item":
            return ParamGroup(decay=self.config.decay)
        if key == "prior" or key.startswith("log_"):
            return ParamGroup(rate=self.config.slow)
        is_effect = key == "exposure" or key.startswith(("entity.", "items."))
        return ParamGroup(decay=self.config.feature_decay if is_effect else 0.0)

    def body(self, params: Params) -> Params:
        """Inputs [C, K] of the weights for each item, its level and doubt [1, C], popularity [C], and the parameters
        that adaptation needs."""
        return _item_body(params, params["item"], params["total"][None], params["count"][None])

    def adapt(self, body: Params, support: Support) -> State:
        """mean [T, K] of the weights, the Cholesky factor [T, K, K] of their precision, and size [T]."""
        rows = replace(support.rows, label=support.rows.label.masked_fill(~support.rows.mask, 0.0))
        size = rows.counts
        item = _known_items(body, rows.item)
        level, doubt = _by_fold(body, "level", item), _by_fold(body, "doubt", item)
        x = body["inputs"][item]
        mean = self._prior_mean(body, support.features, item, rows.mask, size)
        noise = _at_size(body["log_noise"], size).exp()[:, None] * (1 + doubt)
        residual = (rows.label - body["mean_label"]) / body["unit"] - level - _dot(x, mean)
        z, factor = whitened_posterior(x, residual, rows.mask / noise)
        return {"mean": mean + z, "factor": factor, "size": size}

    def _prior_mean(
        self, body: Params, features: Mapping[str, Tensor], item: Tensor, mask: Tensor, size: Tensor
    ) -> Tensor:
        """Prior mean m [T, K] of the weights, from the entity's features and the items [T, S] that it met."""
        fields = embed_fields(body, "entity", select_fields(body, "entity", features))
        mean = torch.stack([body["start"].expand(len(size), -1), *fields]).sum(0)
        if not self.config.exposure:
            return mean
        met = torch.cat([body["inputs"][item], body["popularity"][item].unsqueeze(2)], 2) * mask.unsqueeze(2)
        return mean + met.sum(1) / (size + body["log_exposure"].exp())[:, None] @ body["exposure"]

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return body["mean_label"] + body["unit"] * self._standardized(body, state, _known_items(body, rows.item))

    def _standardized(self, body: Params, state: State, item: Tensor) -> Tensor:
        """Expected labels [T, R] of items [T, R] in standardized units."""
        shift = _at_size(body["level_by_size"], state["size"])
        return _by_fold(body, "level", item) + shift[:, None] + _dot(body["inputs"][item], state["mean"])

    def rank(self, body: Params, state: State) -> Tensor:
        """Expected labels [T, C] of the catalogue."""
        shift = _at_size(body["level_by_size"], state["size"])
        return body["mean_label"] + body["unit"] * (
            body["level"][0] + shift[:, None] + state["mean"] @ body["inputs"].T
        )

    def score_std(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Standard deviation [T, R] of the expected label: of the entity's weights under the posterior, and of the
        item's level. The noise of a single label is not part of it."""
        expected, _ = self._variances(body, state, _known_items(body, rows.item))
        return body["unit"] * (_at_size(body["heat"], state["size"])[:, None] * expected).sqrt()

    def _variances(self, body: Params, state: State, item: Tensor) -> tuple[Tensor, Tensor]:
        """Variances [T, R] of the expected label and of the label around it, standardized, before calibration."""
        noise = _at_size(body["log_noise"], state["size"]).exp()[:, None].expand(item.shape)
        uncertain_level = noise * _by_fold(body, "doubt", item)
        return prediction_variance(body["inputs"][item], state["factor"]) + uncertain_level, noise

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        rows = replace(support.rows, label=support.rows.label.masked_fill(~support.rows.mask, 0.0))
        return squared_error(self.score(body, state, rows), rows)

    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: CrossFittedLabels, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Mean loss of the query after adapting, in standardized units; logs how far items' own features are used."""
        c, device = self.config, batch.entity.device
        is_known = (
            torch.rand(len(params["count"]), generator=generator, device=generator.device).to(device) >= c.new_items
        )
        own = dropout(params["item"], c.dropout, generator) * is_known[:, None]
        total, count = (sums.to(device) * is_known for sums in (training_state.total, training_state.count))
        body = _item_body(params, own, total, count) | {"fold": training_state.fold.to(device)[batch.entity]}
        support = replace(batch.support, features=mask_features(batch.support.features, c.unknown, generator))
        state = self.adapt(body, support)
        item = _known_items(body, batch.query.item)
        label = ((batch.query.label - body["mean_label"]) / body["unit"]).masked_fill(~batch.query.mask, 0.0)
        loss = (self._standardized(body, state, item) - label).square()
        if c.loss == "likelihood":
            variance = torch.stack(self._variances(body, state, item)).sum(0)
            loss = 0.5 * (loss / variance + variance.log())
        weight = batch.query.counts**c.size_weight * batch.query.mask.any(1)
        value = mean_over_tasks(mean_over_rows(loss, batch.query.mask), weight)
        return value, {"own_features": float(params["item"].detach().norm(dim=1).mean())}

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
        variance = body["unit"].square() * torch.stack(self._variances(body, state, item)).sum(0)
        mask = batch.query.mask
        return float(error[mask].square().mean() / variance[mask].mean())


def _exposure_params(width: int, generator: torch.Generator) -> Params:
    exposure = NOISE * torch.randn(width + 1, width, generator=generator)
    return {"exposure": exposure, "log_exposure": torch.tensor(2.0)}


def _item_body(params: Params, own: Tensor, total: Tensor, count: Tensor) -> Params:
    """Body from items' own features [C, D], and sums and numbers of their labels [F, C]."""
    fields = embed_fields(params, "items", select_fields(params, "items", catalogue_features(params)))
    width = params["prior"].shape[0]
    effects = torch.stack([own.new_zeros(len(own), width), *fields]).sum(0)
    shrink = params["log_shrink"].exp()
    trust = params["count"] / (params["count"] + params["log_trust"].exp())
    features = torch.cat([torch.ones_like(own[:, :1]), trust[:, None] * own + effects[:, 1:]], 1)
    popularity = torch.log1p(params["count"])
    kept = {k: v for k, v in params.items() if not k.startswith(("catalogue.", "items."))}
    return {k: v for k, v in kept.items() if k not in ("item", "total", "count", "prior")} | {
        "inputs": features @ params["prior"].tril(),
        "level": (total + shrink * effects[:, 0]) / (count + shrink),
        "doubt": params["log_doubt"].exp() / (count + shrink),
        "popularity": popularity - popularity.mean(),
    }


def _known_items(body: Params, item: Tensor) -> Tensor:
    """Items [T, R] with UNKNOWN for those outside the catalogue."""
    return torch.where(item < len(body["inputs"]), item, UNKNOWN)


def _by_fold(body: Params, key: str, item: Tensor) -> Tensor:
    """Values [T, R] of items [T, R] out of body[key] [F, C]: without the entity's fold in training, else the only."""
    fold = body["fold"][:, None] if "fold" in body else torch.zeros_like(item)
    return body[key][fold, item]


def _at_size(values: Tensor, size: Tensor) -> Tensor:
    """Values [T] at the support sizes [T] between those at the knots [K]."""
    return support_size_weights(size, SIZE_KNOTS) @ values


def _dot(x: Tensor, weights: Tensor) -> Tensor:
    """x [T, R, K] times weights [T, K], [T, R]."""
    return (x @ weights.unsqueeze(2)).squeeze(2)
