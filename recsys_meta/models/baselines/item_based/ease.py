"""EASE (Steck 2019): item-item regression in closed form without self-similarity, with fold-in of new entities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

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
from recsys_meta.models.functional.item_similarity import ease_weights
from recsys_meta.models.protocols import EvidenceMixture


class Ease(BaselineConfig):
    """B = I - P diag(P)^-1 with P = (X'X + ridge I)^-1; the scores of a support x are x B, plus popularity.

    With more than MAX_DENSE_ITEMS items the regression covers the most popular ones, and the others score their
    popularity alone. Settings with the same ridge share their parameters.
    """

    name: ClassVar[str] = "ease"
    fit_fields: ClassVar[frozenset[str]] = frozenset({"ridge"})

    ridge: float = Field(default=5000.0, gt=0)
    popularity: float = Field(default=0.3, ge=0)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {
            "ridge": (500.0, 5_000.0, 30_000.0, 150_000.0, 1_000_000.0),
            "popularity": (0.0, 0.3, 1.0, 3.0, 9.0),
        }

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        rows = TrainingMatrix.of(data, entities)
        columns, positions = rows.popular
        few_rows = 2 * columns.shape[0] < columns.shape[1]  # then there is no need of counts
        return {
            **positions,
            "log_popularity": log_popularity(rows.counts),
            "weights": ease_weights(columns, self.ridge, None if few_rows else rows.cooccurrence),
        }

    def adapt(self, body: Params, support: Support) -> State:
        return locate_support(body, support.rows)

    def rank(self, body: Params, state: State) -> Tensor:
        return mix_with_popularity(_evidence(body, state), body["log_popularity"], self.popularity)

    def mixture_tables(self, body: Params) -> Params:
        return evidence_tables(body)

    def mixture(self, body: Params, state: State) -> EvidenceMixture:
        return mix_evidence(_evidence(body, state), self.popularity)


def _evidence(body: Params, state: State) -> Tensor:
    """Evidence x B [T, C]."""
    scores = gather_scores(body["weights"], state["place"], state["weight"])
    return scatter_scores(scores, body["kept"], len(body["log_popularity"]))
