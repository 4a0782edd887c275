"""Repeat consumption: the items of an actor's history."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.baselines.choice.base import LOG_COUNT, LOG_OWN_VISITS, ChoiceBaseline, lexicographic_scores
from recsys_meta.models.functional.catalogue_features import basic_columns


class RevisitFrequency(ChoiceBaseline):
    """Orders items by how often the actor's history has them, ties by popularity in the support."""

    name: ClassVar[str] = "revisits"

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        features = basic_columns(state, rows, candidates)
        return lexicographic_scores([features[..., LOG_OWN_VISITS], features[..., LOG_COUNT]])
