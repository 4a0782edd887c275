"""What training asks of a curriculum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from recsys_meta.types import IntArray


class Curriculum(Protocol):
    """Chooses the entities of each meta-batch, from those it was made with."""

    def sample(self, tasks: int, generator: torch.Generator) -> IntArray:
        """Entities of the next meta-batch, [tasks] int64; all chance comes from the generator."""

    def report(self) -> Mapping[str, float]:
        """Figures worth logging."""

    def state(self) -> dict[str, Tensor]:
        """All it remembers, as tensors."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`, bit for bit."""
