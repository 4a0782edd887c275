"""Popularity in the entity itself: rows of each item in the support."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recsys_meta.baselines.choices import ChoiceBaseline
from recsys_meta.moments import six
from recsys_meta.types import Params, Rows, State


class LocalPopularity(ChoiceBaseline):
    """See the module."""

    name: ClassVar[str] = "local-popularity"

    def choose(self, body: Params, state: State, rows: Rows, candidates: Tensor) -> Tensor:
        return six(state, rows, candidates)[..., 0]
