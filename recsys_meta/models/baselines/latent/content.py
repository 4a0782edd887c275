"""Content-based baseline: scores from an entity's features alone, whatever its support."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.feature_tensors import lookup_rows
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, IntArray, Params, State, Support
from recsys_meta.models.baselines.base import LABEL_OBJECTIVES, RANKING_OBJECTIVES, BaselineConfig
from recsys_meta.models.baselines.interaction_matrix import TrainingMatrix, TrainingRows
from recsys_meta.models.baselines.latent.design_matrix import design_matrix, init_design
from recsys_meta.models.functional.embeddings import catalogue_features, item_features
from recsys_meta.models.functional.linear_algebra import batch_invariant_product

CELLS = 4_000_000
"""Most cells of the table of log-likelihood ratios (feature values times items)."""


class ContentOnly(BaselineConfig):
    """Ranking: log p(i) + trust * sum over the entity's feature values v of log [p(i | v) / p(i)], where
    p(i | v) = (n_iv + strength p(i)) / (n_v + strength); a field with several values gives their mean.

    Labels: ridge regression on the features of entity and item. Without entity features a ranking is popularity.
    Numeric features take part in the regression only.
    """

    name: ClassVar[str] = "content"
    reads_rows: ClassVar[bool] = False
    objectives: ClassVar[frozenset[Objective]] = RANKING_OBJECTIVES | LABEL_OBJECTIVES
    fit_fields: ClassVar[frozenset[str]] = frozenset({"strength", "ridge"})

    cold_fields: ClassVar[frozenset[str]] = frozenset({"strength", "trust", "ridge"})

    strength: float = Field(default=100.0, gt=0)
    trust: float = Field(default=0.5, ge=0)
    ridge: float = Field(default=30.0, gt=0)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        if self.objective == "ranking":
            return {"strength": (10.0, 30.0, 100.0, 300.0), "trust": (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)}
        return {"ridge": (1.0, 10.0, 100.0, 1_000.0)}

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        if self.objective == "ranking":
            return self._fit_ranking(data, np.asarray(entities))
        return self._fit_labels(data, np.asarray(entities), TrainingRows.of(data, entities))

    def _fit_ranking(self, data: Dataset, entities: IntArray) -> Params:
        rows = TrainingMatrix.of(data, entities)
        matrix, counts = rows.matrix, rows.counts
        table = {name: column for name, column in data.entities.items() if not column.numeric}
        limit = max(1, CELLS // (data.catalogue * max(len(table), 1)))
        encoding = init_design(table, entities, limit)
        indicators = sp.csr_matrix(_encode_rows(encoding, lookup_rows(table, entities), len(entities)).numpy())
        marginal = (counts.numpy() + 1) / (len(entities) + 2)
        value_counts = np.asarray(indicators.sum(0)).reshape(-1, 1)
        conditional = ((indicators.T @ matrix).toarray() + self.strength * marginal) / (value_counts + self.strength)
        shift = torch.from_numpy(np.log(conditional / marginal).astype(np.float32))
        shift[:, :FIRST] = 0
        log_popularity = torch.log1p(counts)
        log_popularity[:FIRST] = 0
        fields = {f"field.{name}": value for name, value in encoding.items()}
        return {"scores": log_popularity, "shift": shift, **fields}

    def _fit_labels(self, data: Dataset, entities: IntArray, rows: TrainingRows) -> Params:
        limit = max(1, 400 // max(len(data.entities) + len(data.items), 1))
        encoding = init_design(data.entities, entities, limit)
        entity_columns = _encode_rows(encoding, lookup_rows(data.entities, entities), len(entities))
        item_encoding = init_design(data.items, rows.item, limit)
        item_columns = _encode_rows(item_encoding, catalogue_features(item_features(data.items)), rows.catalogue)
        mean = rows.label.mean() if len(rows.label) else torch.tensor(0.0)
        weight = _fit_ridge(rows, entity_columns, item_columns, rows.label - mean, self.ridge)
        fields = {f"field.{name}": value for name, value in encoding.items()}
        scores = mean + item_columns @ weight[entity_columns.shape[1] :]
        return {"scores": scores, "shift": weight[: entity_columns.shape[1], None], **fields}

    def adapt(self, body: Params, support: Support) -> State:
        fields = {k.removeprefix("field."): v for k, v in body.items() if k.startswith("field.")}
        features = {name: support.features[name] for name in fields}
        return {"carried": _encode_rows(fields, features, support.size).to(body["shift"].device)}

    def rank(self, body: Params, state: State) -> Tensor:
        shift = batch_invariant_product(state["carried"], body["shift"])
        if self.objective == "ranking":
            return body["scores"] + self.trust * shift
        return self.label_to_score(body["scores"] + shift)


def _encode_rows(encoding: Mapping[str, Tensor], features: Mapping[str, Tensor], size: int) -> Tensor:
    """Encode features as a design matrix [size, F]; [size, 0] without features."""
    return design_matrix(encoding, features) if features else torch.zeros(size, 0)


def _fit_ridge(rows: TrainingRows, entity_columns: Tensor, item_columns: Tensor, label: Tensor, ridge: float) -> Tensor:
    """Solve the ridge regression of label [R] on entity columns [U, E] and item columns [C, I], weights [E + I].

    The normal equations come from sums over rows: the design matrix of R rows is never built.
    """
    shape = (rows.entities, rows.catalogue)
    ones = np.ones(len(rows.item), np.float32)
    row_counts = sp.csr_matrix((ones, (rows.task, rows.item)), shape=shape)
    label_sums = sp.csr_matrix((label.numpy(), (rows.task, rows.item)), shape=shape)
    entity_design, item_design = entity_columns.double(), item_columns.double()
    cross = entity_design.T @ torch.from_numpy(row_counts @ item_columns.numpy()).double()
    entity_rows = torch.from_numpy(np.asarray(row_counts.sum(1)).reshape(-1)).double()
    item_rows = torch.from_numpy(np.asarray(row_counts.sum(0)).reshape(-1)).double()
    matrix = torch.cat(
        [
            torch.cat([entity_design.T @ (entity_design * entity_rows[:, None]), cross], 1),
            torch.cat([cross.T, item_design.T @ (item_design * item_rows[:, None])], 1),
        ]
    )
    matrix.diagonal().add_(ridge)
    entity_labels = torch.from_numpy(np.asarray(label_sums.sum(1)).reshape(-1)).double()
    item_labels = torch.from_numpy(np.asarray(label_sums.sum(0)).reshape(-1)).double()
    target = torch.cat([entity_design.T @ entity_labels, item_design.T @ item_labels])
    weight: Tensor = torch.linalg.solve(matrix, target)
    return weight.float()
