"""The items nearest to the actor's last one; without coordinates or a history, popularity in the support."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.baselines.choice.base import ChoiceBaseline, lexicographic_scores
from recsys_meta.models.functional.choice_features import basic_features


class NearestItem(ChoiceBaseline):
    """See the module."""

    name: ClassVar[str] = "nearest"

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        features = basic_features(state, rows, candidates)
        return lexicographic_scores([features[..., 2], features[..., 0]])
