"""Bayesian linear regression of an entity's labels on item features, with a learned Gaussian prior of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, IntArray, Interactions, Params, State, Support
from recsys_meta.models.baselines.base import LABEL_OBJECTIVES, RANKING_OBJECTIVES, BaselineConfig
from recsys_meta.models.baselines.counting.bias_model import fit_two_way_means
from recsys_meta.models.baselines.interaction_matrix import TrainingMatrix, TrainingRows, log_popularity
from recsys_meta.models.baselines.item_based.item_scores import (
    FactorEvidence,
    distinct_weights,
    factor_evidence,
    factor_tables,
    mix_with_popularity,
)
from recsys_meta.models.baselines.latent.design_matrix import design_matrix, init_design
from recsys_meta.models.baselines.latent.em_prior import learn_prior, residual_factors
from recsys_meta.models.functional.embeddings import catalogue_features, item_features
from recsys_meta.models.functional.gaussian_posterior import fit_gaussian, fold_in, fold_in_tables
from recsys_meta.models.functional.linear_algebra import solve, truncated_svd, weighted_outer_sum
from recsys_meta.models.protocols import EvidenceMixture


class BayesianLinearRegression(FactorEvidence, BaselineConfig):
    """Labels: y = item mean + w . f(i) + noise, w ~ N(m, S) by EM over training entities; f(i) = [1, item term,
    content, `factors` ALS factors of the residuals]. `noise` multiplies the learned variance.

    Ranking: f(i) are the `dims` leading right singular vectors of X, and a training entity's weights the projection
    of its row, whose moments are m and S. The labels are 1 for items of the support and 0, with weight `zeros`, for
    all others. This is the Gaussian over the catalogue restricted to a subspace, plus popularity.
    """

    name: ClassVar[str] = "blr"
    objectives: ClassVar[frozenset[Objective]] = RANKING_OBJECTIVES | LABEL_OBJECTIVES
    fit_fields: ClassVar[frozenset[str]] = frozenset({"dims", "factors", "item_shrink", "values", "seed"})

    body_fields: ClassVar[frozenset[str]] = frozenset({"zeros", "noise"})
    cold_fields: ClassVar[frozenset[str]] = frozenset({"factors", "popularity"})

    dims: int = Field(default=64, ge=1)
    factors: int = Field(default=4, ge=0)
    item_shrink: float = Field(default=3.0, ge=0)
    values: int = Field(default=20, ge=0, description="values of a content field that get a weight")
    seed: int = 0
    noise: float = Field(default=1.0, gt=0)
    zeros: float = Field(default=0.03, ge=0)
    popularity: float = Field(default=0.3, ge=0)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        if self.objective == "ranking":
            return {
                "noise": (0.01, 0.03, 0.1),
                "zeros": (0.0, 0.01, 0.05, 0.25),
                "popularity": (0.0, 0.5, 2.0),
            }
        return {"factors": (0, 4, 12), "noise": (0.7, 1.0, 1.5, 2.2, 3.3)}

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        if self.objective == "ranking":
            return self._fit_ranking(TrainingMatrix.of(data, entities))
        return self._fit_labels(data, TrainingRows.of(data, entities))

    def _fit_ranking(self, rows: TrainingMatrix) -> Params:
        items = truncated_svd(rows.matrix, self.dims, self.seed)
        return {
            "items": items,
            "gram": items.T @ items,
            "log_popularity": log_popularity(rows.counts),
            **fit_gaussian(torch.from_numpy(rows.matrix @ items.numpy())),
        }

    def _fit_labels(self, data: Dataset, rows: TrainingRows) -> Params:
        mean, item, user = fit_two_way_means(rows, self.item_shrink)
        catalogue = catalogue_features(item_features(data.items))
        content = design_matrix(init_design(data.items, rows.item, self.values), catalogue)
        task, items = torch.from_numpy(rows.task), torch.from_numpy(rows.item)
        residual = rows.label - mean - item[items]
        factors = residual_factors(rows, residual - user[task], self.factors, self.seed)
        columns = [torch.ones(rows.catalogue, 1), item[:, None], content.reshape(rows.catalogue, -1), factors]
        features = torch.cat(columns, 1)
        # Centred over training rows, so that the weight of the constant is the entity's mean.
        if len(items):
            features[:, 1:] -= features[items, 1:].mean(0)
        features[:FIRST] = 0
        features[:FIRST, 0] = 1
        prior = learn_prior(rows, residual, features)
        return {
            "base": mean + item,
            "variance": prior["variance"],
            **_pad_features(features, prior, self._padding_width()),
        }

    def _padding_width(self) -> int:
        """Return the number of empty columns that gives all settings of the grid states of the same shape."""
        options: tuple[int, ...] = self.search_space().get("factors", ())
        return max(0, max(options, default=0) - self.factors)

    def body(self, params: Params) -> Params:
        if self.objective != "ranking":
            return params
        prior = {k: params[k] for k in ("gram", "precision", "mean")}
        return params | fold_in_tables(**prior, zeros=self.zeros, prior=self.noise)

    def adapt(self, body: Params, support: Support) -> State:
        rows = support.rows
        if self.objective == "ranking":
            weight = distinct_weights(rows)
            return {"vector": fold_in(body, body["items"][rows.item], weight, gain=1.0, target=1.0)}
        vectors, weight = body["features"][rows.item], rows.mask.to(rows.label.dtype)
        residual = (rows.label - body["base"][rows.item]) * weight
        precision = self.noise * body["variance"] * body["precision"]
        target = (vectors * residual.unsqueeze(2)).sum(1) + precision @ body["mean"]
        return {"vector": solve(weighted_outer_sum(vectors, weight) + precision, target)}

    def rank(self, body: Params, state: State) -> Tensor:
        if self.objective == "ranking":
            return mix_with_popularity(state["vector"] @ body["items"].T, body["log_popularity"], self.popularity)
        return self.label_to_score(body["base"] + state["vector"] @ body["features"].T)

    def mixture_tables(self, body: Params) -> Params:
        return factor_tables(body) if self.objective == "ranking" else {}

    def mixture(self, body: Params, state: State) -> EvidenceMixture:
        return self.mix(state, factor_evidence(body, state["vector"]))

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        if self.objective == "ranking":
            return super().score(body, state, rows)
        effect = torch.einsum("trd,td->tr", body["features"][rows.item], state["vector"])
        return self.label_to_score(body["base"][rows.item] + effect)


def _pad_features(features: Tensor, prior: Params, width: int) -> Params:
    """Append `width` empty columns to features [C, D] and to the prior, which is standard normal on their weights."""
    pad = torch.nn.functional.pad
    precision = pad(prior["precision"], (0, width, 0, width))
    precision.diagonal()[len(prior["mean"]) :] = 1
    return {"features": pad(features, (0, width)), "mean": pad(prior["mean"], (0, width)), "precision": precision}
