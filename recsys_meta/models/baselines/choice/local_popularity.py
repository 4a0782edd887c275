"""Popularity within the entity."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.baselines.choice.base import LOG_COUNT, ChoiceBaseline
from recsys_meta.models.functional.catalogue_features import basic_columns


class LocalPopularity(ChoiceBaseline):
    """Orders items by their number of rows in the support."""

    name: ClassVar[str] = "local-popularity"

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        return basic_columns(state, rows, candidates)[..., LOG_COUNT]
