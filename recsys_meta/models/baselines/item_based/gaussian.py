"""Gaussian over the rows of the interaction matrix, conditioned on the items of the support."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Params, State, Support
from recsys_meta.models.baselines.base import BaselineConfig, mix_evidence
from recsys_meta.models.baselines.interaction_matrix import (
    TrainingMatrix,
    log_popularity,
)
from recsys_meta.models.baselines.item_based.item_scores import (
    evidence_tables,
    gather_scores,
    locate_support,
    mix_with_popularity,
    scatter_scores,
)
from recsys_meta.models.functional.host_reads import is_readable
from recsys_meta.models.protocols import EvidenceMixture


class GaussianPosterior(BaselineConfig):
    """Posterior mean m + K_S (K_SS + noise I)^-1 (1 - m_S) of an entity's row of X, plus popularity.

    m and K are the mean and covariance of training rows or, if not `centred`, 0 and the second moment; then the
    scores after one item are the conditional probabilities given it. With more than MAX_DENSE_ITEMS items the most
    popular ones are covered. All settings share their parameters.
    """

    name: ClassVar[str] = "gaussian"

    noise: float = Field(default=0.1, gt=0)
    centred: bool = True
    popularity: float = Field(default=0.1, ge=0)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {
            "noise": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
            "centred": (True, False),
            "popularity": (0.0, 0.2, 1.0),
        }

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        rows = TrainingMatrix.of(data, entities)
        _, positions = rows.popular
        users = max(rows.matrix.shape[0], 1)
        return {
            **positions,
            "log_popularity": log_popularity(rows.counts),
            "mean": rows.counts[positions["kept"]] / users,
            "moment": rows.cooccurrence / users,
        }

    def adapt(self, body: Params, support: Support) -> State:
        state = locate_support(body, support.rows)
        position, weight = state["place"], state["weight"]
        if position.shape[1] == 0 or not len(body["mean"]):
            return state
        if not is_readable(position):
            mean = self.centred * body["mean"][position]
            moment = body["moment"][position[:, :, None], position[:, None, :]]
            return {"place": position, "weight": self._condition(torch.linalg.solve, mean, moment, weight)}
        # In NumPy: for one entity its operations cost a third of torch's, and it solves for one entity after another.
        at = position.numpy()
        mean, moment = self.centred * body["mean"].numpy()[at], body["moment"].numpy()[at[:, :, None], at[:, None, :]]
        solution = self._condition(np.linalg.solve, mean, moment, weight.numpy())
        return {"place": position, "weight": torch.from_numpy(solution)}

    def _condition(self, solve_all: Any, mean: Any, moment: Any, weight: Any) -> Any:
        """Solve for the weights [T, S] of the support's columns, with arrays of torch or of NumPy; mean [T, S] and
        moment [T, S, S] are those of its items."""
        mean = mean * weight
        covariance = moment * (weight[:, :, None] * weight[:, None, :]) - mean[:, :, None] * mean[:, None, :]
        covariance.reshape(len(mean), -1)[:, :: mean.shape[1] + 1] += self.noise
        return solve_all(covariance, (weight - mean)[:, :, None])[:, :, 0] * weight

    def rank(self, body: Params, state: State) -> Tensor:
        return mix_with_popularity(self._evidence(body, state), body["log_popularity"], self.popularity)

    def mixture_tables(self, body: Params) -> Params:
        return evidence_tables(body)

    def mixture(self, body: Params, state: State) -> EvidenceMixture:
        return mix_evidence(self._evidence(body, state), self.popularity)

    def _evidence(self, body: Params, state: State) -> Tensor:
        """Posterior mean of the rows, [T, C]."""
        mean = body["mean"] * self.centred
        scores = gather_scores(body["moment"], state["place"], state["weight"])
        if self.centred:
            projection = (mean[state["place"]] * state["weight"]).sum(1) if len(mean) else mean.new_zeros(len(scores))
            scores = scores + (1 - projection)[:, None] * mean
        return scatter_scores(scores, body["kept"], len(body["place"]))
