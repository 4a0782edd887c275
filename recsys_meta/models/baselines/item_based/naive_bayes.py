"""Naive Bayes on co-occurrences: each support item adds a log-likelihood ratio to every other item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import FIRST, IntArray, Params, State, Support
from recsys_meta.models.baselines.base import BaselineConfig, mix_evidence
from recsys_meta.models.baselines.interaction_matrix import TrainingMatrix
from recsys_meta.models.baselines.item_based.item_scores import (
    distinct_weights,
    evidence_tables,
    gather_scores,
    locate_support,
    scatter_scores,
)
from recsys_meta.models.functional.neighbour_lists import sum_neighbours
from recsys_meta.models.protocols import EvidenceMixture


class NaiveBayes(BaselineConfig):
    """log p(i) + trust * sum over the support's items s of log [p(s | i) / p(s)].

    p(s | i) = (G_si + strength p(s)) / (n_i + strength), so an item without training entities has no influence.
    `trust` below 1 discounts evidence that is not independent: the larger the support, the less each item adds. All
    settings share their parameters.

    The ratio is log [strength / (n_i + strength)] + log [1 + G_si / (strength p(s))], whose second part is 0 where two
    items never occur together. So with more than MAX_DENSE_ITEMS items that training entities met, each has the second
    part for the items of the most co-occurrences per root of popularity, as many as ItemKNN has.
    """

    name: ClassVar[str] = "naive-bayes"
    fit_fields: ClassVar[frozenset[str]] = frozenset({"neighbours"})
    body_fields: ClassVar[frozenset[str]] = frozenset({"strength"})

    strength: float = Field(default=30.0, gt=0)
    trust: float = Field(default=0.5, ge=0)
    neighbours: int = Field(default=200, ge=1)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {
            "strength": (3.0, 30.0, 150.0, 1_000.0),
            "trust": (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.1, 1.6),
        }

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        rows = TrainingMatrix.of(data, entities)
        log_popularity = torch.log1p(rows.counts)
        log_popularity[:FIRST] = 0
        frequency = (rows.counts / max(rows.matrix.shape[0], 1)).clamp(min=1e-12)
        if not rows.is_dense:
            near = rows.neighbours(self.neighbours)
            lists = {"neighbour": near.neighbour.int(), "together": near.value, "counts": rows.counts}
            return lists | {"log_popularity": log_popularity, "share": frequency}
        _, positions = rows.popular
        return {
            **positions,
            "log_popularity": log_popularity,
            "share": frequency[positions["kept"]],
            "together": rows.cooccurrence,
        }

    def body(self, params: Params) -> Params:
        frequency, cooccurrence = params["share"], params["together"]
        if "neighbour" in params:
            apart = torch.log(self.strength / (params["counts"] + self.strength))
            lists = {"value": torch.log1p(cooccurrence / (self.strength * frequency[:, None])), "apart": apart}
            return lists | {k: params[k] for k in ("neighbour", "counts", "log_popularity")}
        counts = cooccurrence.diagonal()
        pseudo_counts = self.strength * frequency[:, None]
        shift = torch.log((cooccurrence + pseudo_counts) / ((counts + self.strength) * frequency[:, None]))
        shift.fill_diagonal_(0)
        return {k: params[k] for k in ("kept", "place", "log_popularity")} | {"shift": shift}

    def adapt(self, body: Params, support: Support) -> State:
        if "neighbour" in body:
            is_met = body["counts"][support.rows.item] > 0
            return {"place": support.rows.item, "weight": distinct_weights(support.rows) * is_met}
        return locate_support(body, support.rows)

    def rank(self, body: Params, state: State) -> Tensor:
        return body["log_popularity"] + self.trust * _evidence(body, state)

    def mixture_tables(self, body: Params) -> Params:
        return evidence_tables(body)

    def mixture(self, body: Params, state: State) -> EvidenceMixture:
        return mix_evidence(_evidence(body, state), 1.0, gain=self.trust)


def _evidence(body: Params, state: State) -> Tensor:
    """Sum the log-likelihood ratios of the support's items, [T, C]."""
    if "neighbour" in body:
        place, weight, catalogue = state["place"], state["weight"], len(body["apart"])
        together = sum_neighbours(body["neighbour"], body["value"], place, weight, catalogue)
        return weight.sum(1, keepdim=True) * body["apart"] + together
    shift = gather_scores(body["shift"], state["place"], state["weight"])
    return scatter_scores(shift, body["kept"], len(body["place"]))
