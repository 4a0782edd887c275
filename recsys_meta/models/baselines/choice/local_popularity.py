"""Popularity in the entity itself: rows of each item in the support."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.baselines.choice.base import ChoiceBaseline
from recsys_meta.models.functional.choice_features import basic_features


class LocalPopularity(ChoiceBaseline):
    """See the module."""

    name: ClassVar[str] = "local-popularity"

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        return basic_features(state, rows, candidates)[..., 0]
