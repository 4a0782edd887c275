"""Nearest neighbours within the entity: items that actors with a similar history chose in the support.

Each support row adds to its item the cosine of its actor's history and the history of the row that is scored. The
neighbours are rows, not actors, because a support holds histories only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.baselines.choice.base import LOG_COUNT, ChoiceBaseline
from recsys_meta.models.functional.catalogue_features import basic_columns
from recsys_meta.models.functional.choice_features import sequential_features


class ItemNeighbours(ChoiceBaseline):
    """log(1 + sum of similarities of the item's rows) + `popular` * log(1 + rows of the item)."""

    name: ClassVar[str] = "local-itemknn"

    popular: float = Field(default=0.3, ge=0)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {"popular": (0.01, 0.1, 0.3, 1.0, 3.0)}

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        (evidence,) = sequential_features(state, rows, candidates, ["log_together"])
        return evidence + self.popular * basic_columns(state, rows, candidates)[..., LOG_COUNT]
