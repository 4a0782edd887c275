"""Protocol of an evaluation: which entities are new, the points of the curve, the order of supports, and the split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines.experiments.training_inputs import default_shots
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Order
from recsys_meta.core.types import IntArray

FLAGSHIPS = ("flagship", "flagship-click", "flagship-choice", "flagship-rating")
"""Recipes of the flagship, one for each objective; the first name stands for that of the data set's objective."""

Scenario = Literal["new", "corners", "actors", "sampled"]


@dataclass(frozen=True)
class EvaluationProtocol:
    """Protocol of an evaluation; None takes the data set's own setting.

    Scenarios: "new" entities on all items, the four "corners" of warm and cold, "actors" for actor episodes, or
    "sampled" for actor episodes with sampled others only. `newcomers` are the most meta-test entities that are
    evaluated, a random part that depends on the split alone; None: all.
    """

    shots: tuple[int, ...] | None = None
    split: str = "seed"
    order: Order | None = None
    min_query: int | None = None
    scenario: Scenario = "new"
    newcomers: int | None = None

    def sample(self, entities: IntArray, seed: int) -> IntArray:
        """Part of the entities of a split that is evaluated, the same for every method; `seed` is the split's."""
        if self.newcomers is None or len(entities) <= self.newcomers:
            return entities
        return np.sort(np.random.default_rng(seed).choice(entities, self.newcomers, replace=False))

    def label(self, data: Dataset) -> str:
        """Name of the protocol in tables: the kind of new entity, the order of supports and the split."""
        order = "actors" if self.sampling == "actors" else self.order or data.schema.order
        kind = data.schema.kind
        plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
        part = "" if self.newcomers is None else f"/{self.newcomers}-of-them"
        return f"new-{plural}/{order}-support/split-by-{split_name(data, self.split)}{part}"

    @property
    def sampling(self) -> str:
        """Scenario by which episodes are drawn, in training as well."""
        return "actors" if self.scenario == "sampled" else self.scenario

    def points(self, data: Dataset) -> tuple[int, ...]:
        """Numbers of shots of the curve."""
        return self.shots or default_shots(data, self.sampling)


def split_name(data: Dataset, split: str) -> str:
    """Name of the rule that splits the entities: size, folds, seed, time or the shared feature."""
    schema = data.schema
    if split != "seed":
        return split
    rules = {"size": schema.past_rows is not None, "folds": schema.folds > 0, "seed": schema.together is None}
    return next((name for name, applies in rules.items() if applies), str(schema.together))
