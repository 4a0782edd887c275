"""First-order Markov chain over the items of an entity."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.baselines.choice.base import LOG_COUNT, ChoiceBaseline, lexicographic_scores
from recsys_meta.models.functional.catalogue_features import basic_columns
from recsys_meta.models.functional.choice_features import sequential_features


class MarkovChain(ChoiceBaseline):
    """Orders items by transitions in the support from the actor's last item to them, ties by popularity there."""

    name: ClassVar[str] = "markov"

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        (transitions,) = sequential_features(state, rows, candidates, ["log_steps"])
        return lexicographic_scores([transitions, basic_columns(state, rows, candidates)[..., LOG_COUNT]])
