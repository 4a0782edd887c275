"""EASE (Steck 2019): item-item regression in closed form without self-similarity, with fold-in of new entities.

Of a large catalogue the regression is sparse: each item has weights for its strongest neighbours alone.
"""

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
    distinct_weights,
    evidence_tables,
    gather_scores,
    locate_support,
    mix_with_popularity,
    scatter_scores,
)
from recsys_meta.models.functional.item_similarity import MAX_DENSE_ITEMS, ease_weights
from recsys_meta.models.functional.neighbour_lists import (
    LOCAL_NEIGHBOURS,
    cooccurring_items,
    count_pairs,
    local_ease,
    neighbour_table,
    sum_neighbours,
)
from recsys_meta.models.protocols import EvidenceMixture


class Ease(BaselineConfig):
    """B = I - P diag(P)^-1 with P = (X'X + ridge I)^-1; the scores of a support x are x B, plus popularity.

    With more than MAX_DENSE_ITEMS items that training entities met, each has weights for the `neighbours` items of the
    largest cosine, from a regression on these alone (`local_ease`). The least popular items, beyond those that
    `affordable_items` finds, score their popularity alone. Settings with the same ridge
    share their parameters.
    """

    name: ClassVar[str] = "ease"
    fit_fields: ClassVar[frozenset[str]] = frozenset({"ridge", "neighbours"})

    ridge: float = Field(default=5000.0, gt=0)
    popularity: float = Field(default=0.3, ge=0)
    neighbours: int = Field(default=LOCAL_NEIGHBOURS, ge=1)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {
            "ridge": (500.0, 5_000.0, 30_000.0, 150_000.0, 1_000_000.0),
            "popularity": (0.0, 0.3, 1.0, 3.0, 9.0),
        }

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        rows = TrainingMatrix.of(data, entities)
        if int((rows.counts > 0).sum()) > MAX_DENSE_ITEMS:
            return {"log_popularity": log_popularity(rows.counts), **self._neighbour_weights(rows)}
        columns, positions = rows.popular
        few_rows = 2 * columns.shape[0] < columns.shape[1]  # then there is no need of counts
        return {
            **positions,
            "log_popularity": log_popularity(rows.counts),
            "weights": ease_weights(columns, self.ridge, None if few_rows else rows.cooccurrence),
        }

    def _neighbour_weights(self, rows: TrainingMatrix) -> Params:
        """Lists of the covered items' neighbours, see `neighbour_table`."""
        columns, positions = rows.affordable
        together = count_pairs(columns)
        near = cooccurring_items(columns, together.diagonal(), self.neighbours, together)
        return neighbour_table(positions["kept"], local_ease(together, near, self.ridge), len(positions["place"]))

    def adapt(self, body: Params, support: Support) -> State:
        if "neighbour" in body:
            return {"place": body["row"][support.rows.item], "weight": distinct_weights(support.rows)}
        return locate_support(body, support.rows)

    def rank(self, body: Params, state: State) -> Tensor:
        return mix_with_popularity(_evidence(body, state), body["log_popularity"], self.popularity)

    def mixture_tables(self, body: Params) -> Params:
        return evidence_tables(body)

    def mixture(self, body: Params, state: State) -> EvidenceMixture:
        return mix_evidence(_evidence(body, state), self.popularity)


def _evidence(body: Params, state: State) -> Tensor:
    """Evidence x B [T, C]."""
    if "neighbour" in body:
        lists = body["neighbour"], body["weight"]
        return sum_neighbours(*lists, state["place"], state["weight"], len(body["log_popularity"]))
    scores = gather_scores(body["weights"], state["place"], state["weight"])
    return scatter_scores(scores, body["kept"], len(body["log_popularity"]))
