"""Content only: what an entity's features say before its first interaction; the support is not looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.feature_encoding import lookup_rows
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, IntArray, Params, State, Support
from recsys_meta.models.baselines.base import LABELS, RANKING, BaselineConfig
from recsys_meta.models.baselines.interaction_matrix import TrainingRows, item_counts
from recsys_meta.models.baselines.latent.design_matrix import design_matrix, init_design
from recsys_meta.models.functional.embeddings import catalogue_features, item_features

CELLS = 4_000_000
"""Bound on the table of shifts (values times items)."""


class ContentOnly(BaselineConfig):
    """Ranking: log p(i) + trust * sum over the entity's feature values v of log [p(i | v) / p(i)], where
    p(i | v) = (n_iv + strength p(i)) / (n_v + strength); a field with several values gives their mean.

    Labels: ridge regression on the features of both sides. Without entity features a ranking is popularity.
    Numbers take part in the regression only.
    """

    name: ClassVar[str] = "content"
    objectives: ClassVar[frozenset[Objective]] = RANKING | LABELS
    fitted: ClassVar[frozenset[str]] = frozenset({"strength", "ridge"})

    noticed: ClassVar[frozenset[str]] = frozenset({"strength", "trust", "ridge"})

    strength: float = Field(default=100.0, gt=0)
    trust: float = Field(default=0.5, ge=0)
    ridge: float = Field(default=30.0, gt=0)

    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        if self.objective == "ranking":
            return {"strength": (10.0, 30.0, 100.0, 300.0), "trust": (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)}
        return {"ridge": (1.0, 10.0, 100.0, 1_000.0)}

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check(data)
        rows = TrainingRows.of(data, entities)
        if self.objective == "ranking":
            return self._fit_ranking(data, np.asarray(entities), rows)
        return self._fit_labels(data, np.asarray(entities), rows)

    def _fit_ranking(self, data: Dataset, entities: IntArray, rows: TrainingRows) -> Params:
        matrix = rows.binary()
        counts = item_counts(matrix)
        table = {name: column for name, column in data.entities.items() if not column.numeric}
        limit = max(1, CELLS // (rows.catalogue * max(len(table), 1)))
        learned = init_design(table, entities, limit)
        carried = sp.csr_matrix(_rows_of(learned, lookup_rows(table, entities), len(entities)).numpy())
        base = (counts.numpy() + 1) / (rows.entities + 2)
        seen = np.asarray(carried.sum(0)).reshape(-1, 1)
        share = ((carried.T @ matrix).toarray() + self.strength * base) / (seen + self.strength)
        shift = torch.from_numpy(np.log(share / base).astype(np.float32))
        shift[:, :FIRST] = 0
        log_popularity = torch.log1p(counts)
        log_popularity[:FIRST] = 0
        fields = {f"field.{name}": value for name, value in learned.items()}
        return {"scores": log_popularity, "shift": shift, **fields}

    def _fit_labels(self, data: Dataset, entities: IntArray, rows: TrainingRows) -> Params:
        limit = max(1, 400 // max(len(data.entities) + len(data.items), 1))
        learned = init_design(data.entities, entities, limit)
        own = _rows_of(learned, lookup_rows(data.entities, entities), len(entities))
        content = init_design(data.items, rows.item, limit)
        other = _rows_of(content, catalogue_features(item_features(data.items)), rows.catalogue)
        mean = rows.label.mean() if len(rows.label) else torch.tensor(0.0)
        weight = _ridge(rows, own, other, rows.label - mean, self.ridge)
        fields = {f"field.{name}": value for name, value in learned.items()}
        scores = mean + other @ weight[own.shape[1] :]
        return {"scores": scores, "shift": weight[: own.shape[1], None], **fields}

    def adapt(self, body: Params, support: Support) -> State:
        fields = {k.removeprefix("field."): v for k, v in body.items() if k.startswith("field.")}
        given = {name: support.features[name] for name in fields}
        return {"carried": _rows_of(fields, given, support.size).to(body["shift"].device)}

    def rank(self, body: Params, state: State) -> Tensor:
        shift = state["carried"] @ body["shift"]
        if self.objective == "ranking":
            return body["scores"] + self.trust * shift
        return self.finish(body["scores"] + shift)


def _rows_of(learned: Mapping[str, Tensor], features: Mapping[str, Tensor], size: int) -> Tensor:
    return design_matrix(learned, features) if features else torch.zeros(size, 0)


def _ridge(rows: TrainingRows, own: Tensor, other: Tensor, label: Tensor, ridge: float) -> Tensor:
    """Weights [F] of both sides' columns, from their sums over rows (never a row's own columns)."""
    shape = (rows.entities, rows.catalogue)
    ones = np.ones(len(rows.item), np.float32)
    met = sp.csr_matrix((ones, (rows.task, rows.item)), shape=shape)
    given = sp.csr_matrix((label.numpy(), (rows.task, rows.item)), shape=shape)
    left, right = own.double(), other.double()
    cross = left.T @ torch.from_numpy(met @ other.numpy()).double()
    by_entity = torch.from_numpy(np.asarray(met.sum(1)).reshape(-1)).double()
    by_item = torch.from_numpy(np.asarray(met.sum(0)).reshape(-1)).double()
    matrix = torch.cat(
        [
            torch.cat([left.T @ (left * by_entity[:, None]), cross], 1),
            torch.cat([cross.T, right.T @ (right * by_item[:, None])], 1),
        ]
    )
    matrix.diagonal().add_(ridge)
    per_entity = torch.from_numpy(np.asarray(given.sum(1)).reshape(-1)).double()
    per_item = torch.from_numpy(np.asarray(given.sum(0)).reshape(-1)).double()
    wanted = torch.cat([left.T @ per_entity, right.T @ per_item])
    weight: Tensor = torch.linalg.solve(matrix, wanted)
    return weight.float()
