"""ItemKNN: similarity to the items of the support (Sarwar et al. 2001), with a popularity term."""

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
from recsys_meta.models.functional.item_similarity import normalize_cooccurrence
from recsys_meta.models.functional.neighbour_lists import sum_neighbours
from recsys_meta.models.protocols import EvidenceMixture


class ItemKNN(BaselineConfig):
    """Score of item i: sum over the support's items s of G_si / (n_s^(1-a) n_i^a + shrink), plus popularity.

    G counts co-occurrences, n occurrences; a = 1/2 is the shrunk cosine, a = 0 the conditional probability of i
    given s. With more than MAX_DENSE_ITEMS items that training entities met, every item has the items of the most
    co-occurrences per root of popularity instead of all: as many as fit in a table of MAX_DENSE_ITEMS squared, and
    `neighbours` at least.
    """

    name: ClassVar[str] = "itemknn"
    fit_fields: ClassVar[frozenset[str]] = frozenset({"neighbours"})
    body_fields: ClassVar[frozenset[str]] = frozenset({"shrink", "power"})

    shrink: float = Field(default=30.0, ge=0)
    power: float = Field(default=0.5, ge=0, le=1)
    popularity: float = Field(default=0.3, ge=0)
    neighbours: int = Field(default=200, ge=1)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {
            "shrink": (0.0, 10.0, 100.0, 1_000.0),
            "power": (0.0, 0.25, 0.45, 0.65),
            "popularity": (0.0, 0.3, 1.0, 3.0),
        }

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        rows = TrainingMatrix.of(data, entities)
        params = {"counts": rows.counts, "log_popularity": log_popularity(rows.counts)}
        if not rows.is_dense:
            near = rows.neighbours(self.neighbours)
            return params | {"neighbour": near.neighbour.int(), "together": near.value}
        return params | rows.popular[1] | {"together": rows.cooccurrence.clone().fill_diagonal_(0)}

    def body(self, params: Params) -> Params:
        counts, cooccurrence = params["counts"].clamp(min=1), params["together"]
        if "neighbour" in params:
            source, target = counts[:, None], counts[params["neighbour"].long()]
        else:
            dense_counts = counts[params["kept"]]
            source, target = dense_counts[:, None], dense_counts
        similarity = normalize_cooccurrence(cooccurrence, source, target, self.power, self.shrink)
        remainder = {k: v for k, v in params.items() if k not in {"together", "counts"}}
        return remainder | {"similar": similarity}

    def adapt(self, body: Params, support: Support) -> State:
        if "neighbour" in body:
            return {"place": support.rows.item, "weight": distinct_weights(support.rows)}
        return locate_support(body, support.rows)

    def rank(self, body: Params, state: State) -> Tensor:
        return mix_with_popularity(_evidence(body, state), body["log_popularity"], self.popularity)

    def mixture_tables(self, body: Params) -> Params:
        return evidence_tables(body)

    def mixture(self, body: Params, state: State) -> EvidenceMixture:
        return mix_evidence(_evidence(body, state), self.popularity)


def _evidence(body: Params, state: State) -> Tensor:
    """Sum the similarities of the support's items, [T, C]."""
    if "neighbour" in body:
        catalogue = len(body["log_popularity"])
        return sum_neighbours(body["neighbour"], body["similar"], state["place"], state["weight"], catalogue)
    scores = gather_scores(body["similar"], state["place"], state["weight"])
    return scatter_scores(scores, body["kept"], len(body["log_popularity"]))
