"""Logistic regression on the features of entity, item and row, without adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, IntArray, Interactions, Params, State, Support
from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.baselines.click.mixed_logit import CLICK_OBJECTIVES
from recsys_meta.models.baselines.click.solvers.additive_logit import fit_additive
from recsys_meta.models.baselines.click.solvers.click_rows import ClickRows
from recsys_meta.models.baselines.click.solvers.field_encoding import (
    encode_side,
    fill_tables,
    init_all_tables,
    item_indicators,
    mean_context_effect,
    total_context_effect,
    total_effect,
)
from recsys_meta.models.functional.embeddings import catalogue_features, item_features


class LogisticRegression(BaselineConfig):
    """logit = features of the entity + features and bias of the item + context: one weight for each value, with ridge.

    Few training entities share a value of an entity feature, so that entity features have a ridge of their own.
    """

    name: ClassVar[str] = "logistic"
    objectives: ClassVar[frozenset[Objective]] = CLICK_OBJECTIVES
    fit_fields: ClassVar[frozenset[str]] = frozenset({"ridge", "content"})
    cold_fields: ClassVar[frozenset[str]] = frozenset({"ridge", "content"})

    objective: Objective = "click"
    ridge: float = Field(default=3.0, gt=0, description="shrinkage of effects of items and context, in rows")
    content: float = Field(default=30.0, gt=0, description="shrinkage of effects of entity features, in rows")

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {"ridge": (3.0, 30.0), "content": (3.0, 30.0, 300.0)}

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        rows = ClickRows.of(data, entities)
        tables = init_all_tables(data, rows, entities)
        features = catalogue_features(item_features(data.items))
        constant = sp.csr_matrix(np.ones((rows.catalogue, 1)))
        entity_columns = encode_side(tables, "entity", rows.features, rows.entities)
        item_feature_columns = encode_side(tables, "item", features, rows.catalogue)
        per_item = sp.hstack([constant, item_indicators(rows.catalogue), item_feature_columns], "csr")
        context = encode_side(tables, "context", rows.context_features(), len(rows))
        blocks = [per_item[rows.item.numpy()], context, entity_columns[rows.task.numpy()]]
        ends = np.cumsum([b.shape[1] for b in blocks])
        penalty = np.full(ends[-1], self.ridge)
        penalty[0], penalty[ends[1] :] = 1e-3, self.content
        weight = fit_additive(sp.hstack(blocks, "csr"), rows.label, penalty, "logistic")
        base = torch.from_numpy(per_item @ weight[: ends[0]].numpy())
        base[:FIRST] = weight[0]
        context_tables = fill_tables(tables, "context", weight[ends[0] : ends[1], None], context)
        return {
            "base": base.float(),
            **context_tables,
            **fill_tables(tables, "entity", weight[ends[1] :, None], blocks[2]),
        }

    def adapt(self, body: Params, support: Support) -> State:
        content = total_effect(body, "entity", support.features)
        bias = body["base"].new_zeros(1) if content is None else content.squeeze(1)
        return {"bias": bias.expand(support.size).clone()}

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        context = total_context_effect(body, rows)
        eta = body["base"][rows.item] + state["bias"][:, None]
        return eta if context is None else eta + context.squeeze(2)

    def rank(self, body: Params, state: State) -> Tensor:
        context = mean_context_effect(body)
        eta = body["base"] + state["bias"][:, None]
        return eta if context is None else eta + context
