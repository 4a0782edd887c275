"""Nearest item by geographic distance."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.baselines.choice.base import LOG_COUNT, NEAR_LAST, ChoiceBaseline, lexicographic_scores
from recsys_meta.models.functional.catalogue_features import basic_columns


class NearestItem(ChoiceBaseline):
    """Orders items by their distance to the actor's last item, ties by popularity in the support.

    Without coordinates or a history all distances are equal, which leaves popularity.
    """

    name: ClassVar[str] = "nearest"

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        features = basic_columns(state, rows, candidates)
        return lexicographic_scores([features[..., NEAR_LAST], features[..., LOG_COUNT]])
