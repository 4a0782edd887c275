"""Logistic regression on all that is known of both sides and of the row; nothing is adapted."""

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
from recsys_meta.models.baselines.click.mixed_logit import CLICK
from recsys_meta.models.baselines.click.solvers.additive_logit import fit_additive
from recsys_meta.models.baselines.click.solvers.click_rows import ClickRows
from recsys_meta.models.baselines.click.solvers.field_encoding import (
    encode_context,
    fields_of_rows,
    fill_missing,
    init_fields,
    item_columns,
    lookup_weights,
    without_context,
)
from recsys_meta.models.functional.embeddings import catalogue_features, item_features


class LogisticRegression(BaselineConfig):
    """logit = features of the entity + features and bias of the item + context, each value one weight, with ridge.

    Entity features are shared by few past entities, so they have a ridge of their own.
    """

    name: ClassVar[str] = "logistic"
    objectives: ClassVar[frozenset[Objective]] = CLICK
    fitted: ClassVar[frozenset[str]] = frozenset({"ridge", "content"})
    noticed: ClassVar[frozenset[str]] = frozenset({"ridge", "content"})

    objective: Objective = "click"
    ridge: float = Field(default=3.0, gt=0, description="shrinkage of effects of items and context, in rows")
    content: float = Field(default=30.0, gt=0, description="the same of entity features")

    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        return {"ridge": (3.0, 30.0), "content": (3.0, 30.0, 300.0)}

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check(data)
        rows = ClickRows.of(data, entities)
        tables = init_fields("entity", data.entities, np.asarray(entities, np.int64))
        tables |= init_fields("item", data.items, rows.item.numpy())
        tables |= init_fields("context", rows.context, np.arange(len(rows)))
        known = catalogue_features(item_features(data.items))
        constant = sp.csr_matrix(np.ones((rows.catalogue, 1)))
        mine = encode_context(tables, "entity", rows.features, rows.entities)
        theirs = encode_context(tables, "item", known, rows.catalogue)
        per_item = sp.hstack([constant, item_columns(rows.catalogue), theirs], "csr")
        context = encode_context(tables, "context", rows.given(), len(rows))
        blocks = [per_item[rows.item.numpy()], context, mine[rows.task.numpy()]]
        ends = np.cumsum([b.shape[1] for b in blocks])
        penalty = np.full(ends[-1], self.ridge)
        penalty[0], penalty[ends[1] :] = 1e-3, self.content
        weight = fit_additive(sp.hstack(blocks, "csr"), rows.label, penalty, "logistic")
        base = torch.from_numpy(per_item @ weight[: ends[0]].numpy())
        base[:FIRST] = weight[0]
        said = fill_missing(tables, "context", weight[ends[0] : ends[1], None], context)
        return {"base": base.float(), **said, **fill_missing(tables, "entity", weight[ends[1] :, None], blocks[2])}

    def adapt(self, body: Params, support: Support) -> State:
        content = lookup_weights(body, "entity", support.features)
        own = body["base"].new_zeros(1) if content is None else content.squeeze(1)
        return {"bias": own.expand(support.size).clone()}

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        found = fields_of_rows(body, rows)
        eta = body["base"][rows.item] + state["bias"][:, None]
        return eta if found is None else eta + found.squeeze(2)

    def rank(self, body: Params, state: State) -> Tensor:
        found = without_context(body)
        eta = body["base"] + state["bias"][:, None]
        return eta if found is None else eta + found
