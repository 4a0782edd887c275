"""Popularity among entities with a similar arrival time: the part of the accuracy that drift alone explains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import ARRIVAL
from recsys_meta.core.types import IntArray, Params, State, Support
from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.baselines.interaction_matrix import TrainingRows
from recsys_meta.models.functional.arrival_popularity import bin_weights, binned_counts
from recsys_meta.models.functional.linear_algebra import batch_invariant_product


class RecentPopularity(BaselineConfig):
    """Scores an item by the training entities with it, each weighted by how near its arrival is to the new entity's.

    See `functional.arrival_popularity` for the weights. Without arrival times this is popularity.
    """

    name: ClassVar[str] = "recent"
    reads_rows: ClassVar[bool] = False
    cold_fields: ClassVar[frozenset[str]] = frozenset({"width"})

    width: float = Field(default=2.0, gt=0)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {"width": (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0)}

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        rows = TrainingRows.of(data, entities)
        task, item = rows.binary().nonzero()
        return binned_counts(data, torch.from_numpy(task).long(), torch.from_numpy(item).long(), np.asarray(entities))

    def adapt(self, body: Params, support: Support) -> State:
        arrival = support.features.get(ARRIVAL.name)
        if arrival is None:
            return {"weight": body["edges"].new_ones(support.size, len(body["edges"]))}
        return {"weight": bin_weights(arrival, body["edges"], self.width)}

    def rank(self, body: Params, state: State) -> Tensor:
        return torch.log(batch_invariant_product(state["weight"], body["counts"]) + 0.01)
