"""Item popularity: a ranking without personalization."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import IntArray, Params, State, Support
from recsys_meta.models.baselines.base import LABEL_OBJECTIVES, RANKING_OBJECTIVES, BaselineConfig
from recsys_meta.models.baselines.interaction_matrix import TrainingRows, item_counts, log_popularity


class ItemPopularity(BaselineConfig):
    """Scores an item by the number of training entities with it; for labels, the constant mean label."""

    name: ClassVar[str] = "popularity"
    reads_rows: ClassVar[bool] = False
    objectives: ClassVar[frozenset[Objective]] = RANKING_OBJECTIVES | LABEL_OBJECTIVES

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        rows = TrainingRows.of(data, entities)
        if self.objective == "ranking":
            return {"scores": log_popularity(item_counts(rows.binary()))}
        mean = rows.label.double().mean().float() if len(rows.label) else torch.tensor(0.0)
        return {"scores": self.label_to_score(mean).expand(data.catalogue).clone()}

    def adapt(self, body: Params, support: Support) -> State:
        return {"size": support.rows.counts}

    def rank(self, body: Params, state: State) -> Tensor:
        return body["scores"].expand(len(state["size"]), -1)
