"""Item mean plus user bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import IntArray, Interactions, Params, State, Support
from recsys_meta.models.baselines.base import LABEL_OBJECTIVES, BaselineConfig
from recsys_meta.models.baselines.interaction_matrix import TrainingRows
from recsys_meta.models.functional.two_way_means import two_way_means


class ItemMean(BaselineConfig):
    """y = mean + item + user, each shrunk towards its prior: b_u = (L b0 + sum of residuals) / (L + rows).

    Item terms are fitted in turn with the training users' biases (`two_way_means`), so that an item whose raters are
    strict does not count as a bad one. The prior b0 of a new user is the mean bias of the training users.
    """

    name: ClassVar[str] = "item-mean"
    objectives: ClassVar[frozenset[Objective]] = LABEL_OBJECTIVES
    fit_fields: ClassVar[frozenset[str]] = frozenset({"item_shrink"})
    cold_fields: ClassVar[frozenset[str]] = frozenset({"item_shrink"})

    objective: Objective = "rating"
    item_shrink: float = Field(default=5.0, ge=0)
    user_shrink: float = Field(default=5.0, gt=0)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {"item_shrink": (0.5, 2.0, 5.0, 15.0), "user_shrink": (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)}

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        mean, item, user = fit_two_way_means(TrainingRows.of(data, entities), self.item_shrink)
        return {"item": mean + item, "start": user.mean() if len(user) else torch.tensor(0.0)}

    def adapt(self, body: Params, support: Support) -> State:
        rows = support.rows
        residual = ((rows.label - body["item"][rows.item]) * rows.mask).sum(1)
        return {"bias": (residual + self.user_shrink * body["start"]) / (rows.counts + self.user_shrink)}

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return self.label_to_score(body["item"][rows.item] + state["bias"][:, None])

    def rank(self, body: Params, state: State) -> Tensor:
        return self.label_to_score(body["item"] + state["bias"][:, None])


def fit_two_way_means(
    rows: TrainingRows, item_shrink: float, user_shrink: float = 5.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit the mean [], item terms [C] and user terms [U] of the labels by alternation, terms shrunk towards 0."""
    return two_way_means(
        torch.from_numpy(rows.task),
        torch.from_numpy(rows.item),
        rows.label,
        entities=rows.entities,
        catalogue=rows.catalogue,
        item_shrink=item_shrink,
        entity_shrink=user_shrink,
    )
