"""Item neighbours within the entity: what the support's actors took who had met the same items as this one.

A support row speaks for its item with the cosine of its actor's history and the history of the row asked about
(the neighbours are rows, as a support knows histories only); then popularity in the support.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.baselines.choice.base import ChoiceBaseline
from recsys_meta.models.functional.choice_features import basic_features, sequential_features


class ItemNeighbours(ChoiceBaseline):
    """`popular` weighs log(1 + rows of the item) beside the log of what the neighbours say."""

    name: ClassVar[str] = "local-itemknn"

    popular: float = Field(default=0.3, ge=0)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {"popular": (0.01, 0.1, 0.3, 1.0, 3.0)}

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        (evidence,) = sequential_features(state, rows, candidates, ["log_together"])
        return evidence + self.popular * basic_features(state, rows, candidates)[..., 0]
