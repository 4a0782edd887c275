"""What the actor had met before, the most often met first, then popularity in the support."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.baselines.choice.base import ChoiceBaseline, in_order
from recsys_meta.models.functional.choice_features import six


class RevisitFrequency(ChoiceBaseline):
    """See the module."""

    name: ClassVar[str] = "revisits"

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        x = six(state, rows, candidates)
        return in_order([x[..., 4], x[..., 0]])
