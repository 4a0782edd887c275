"""Random scores: the level of a metric without any information."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import IntArray, Params, State, Support
from recsys_meta.models.baselines.base import LABEL_OBJECTIVES, RANKING_OBJECTIVES, BaselineConfig
from recsys_meta.models.baselines.interaction_matrix import TrainingRows


class RandomScores(BaselineConfig):
    """Equal scores for a ranking, since the metrics break ties at random; for labels, a random training label for each
    item."""

    name: ClassVar[str] = "chance"
    objectives: ClassVar[frozenset[Objective]] = RANKING_OBJECTIVES | LABEL_OBJECTIVES

    seed: int = 0

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        if self.objective == "ranking":
            return {"scores": torch.zeros(data.catalogue)}
        rows = TrainingRows.of(data, entities)
        index = np.random.default_rng(self.seed).integers(0, max(len(rows.label), 1), data.catalogue)
        labels = rows.label if len(rows.label) else torch.zeros(1)
        return {"scores": self.label_to_score(labels[torch.from_numpy(index)])}

    def adapt(self, body: Params, support: Support) -> State:
        return {"size": support.rows.counts}

    def rank(self, body: Params, state: State) -> Tensor:
        return body["scores"].expand(len(state["size"]), -1)
