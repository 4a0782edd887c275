"""Popularity among those who came at about the same time: what drift alone is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.baselines.base import BaselineConfig
from recsys_meta.baselines.matrix import TrainingRows
from recsys_meta.dataset import Dataset
from recsys_meta.nets import hats
from recsys_meta.schema import ARRIVAL
from recsys_meta.types import IntArray, Params, State, Support

BINS = 32


class Recent(BaselineConfig):
    """Items by the number of training entities that met them, those who arrived near the newcomer counting most.

    Arrivals of the training entities are cut into equally filled bins; a bin counts exp(-d / width), d the distance
    to the newcomer's place among the bins. Without arrivals this is popularity.
    """

    name: ClassVar[str] = "recent"
    noticed: ClassVar[frozenset[str]] = frozenset({"width"})

    width: float = Field(default=2.0, gt=0)

    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        return {"width": (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0)}

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check(data)
        matrix = TrainingRows.of(data, entities).binary()
        column = data.entities.get(ARRIVAL.name)
        arrived = (
            np.zeros(len(entities)) if column is None else np.asarray(column.values[np.sort(entities)], np.float64)
        )
        known = arrived[np.isfinite(arrived)]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS)).astype(np.float32)) if len(known) else np.zeros(1)
        # Nobody's time known: as good as the latest.
        place = np.searchsorted(edges, np.nan_to_num(arrived, nan=np.inf), side="right") - 1
        counts = np.zeros((len(edges), data.catalogue), np.float32)
        entity = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        np.add.at(counts, (place.clip(0, len(edges) - 1)[entity], matrix.indices), 1.0)
        return {"counts": torch.from_numpy(counts), "edges": torch.from_numpy(np.asarray(edges, np.float32))}

    def adapt(self, body: Params, support: Support) -> State:
        bins = torch.arange(len(body["edges"]), dtype=torch.float32, device=body["edges"].device)
        arrived = support.features.get(ARRIVAL.name)
        if arrived is None:
            return {"weight": torch.ones(support.size, len(bins), device=bins.device)}
        latest = torch.where(torch.isnan(arrived), body["edges"][-1], arrived)
        place = hats(latest, body["edges"]) @ bins
        return {"weight": torch.exp(-(bins - place[:, None]).abs() / self.width)}

    def rank(self, body: Params, state: State) -> Tensor:
        return torch.log(state["weight"] @ body["counts"] + 0.01)
