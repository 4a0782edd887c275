"""What the actor had met before, the most often met first, then popularity in the support."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.baselines.choice.base import ChoiceBaseline, lexicographic_scores
from recsys_meta.models.functional.choice_features import basic_features


class RevisitFrequency(ChoiceBaseline):
    """See the module."""

    name: ClassVar[str] = "revisits"

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        features = basic_features(state, rows, candidates)
        return lexicographic_scores([features[..., 4], features[..., 0]])
