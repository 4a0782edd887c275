"""A deck of tasks, dealt without replacement."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys_meta.training.curricula.base import copy_task_values


class ShuffledSampler:
    """Places 0 to size - 1 in a random order, each dealt once a pass; a deal may end one pass and begin the next."""

    def __init__(self, size: int) -> None:
        self._order = torch.arange(size)
        self._left = torch.zeros(size, dtype=torch.bool)

    def sample(self, count: int, generator: torch.Generator, allowed: Tensor | None = None) -> Tensor:
        """The next `count` places [count] int64, of those `allowed` [size] bool. The others stay in the deck, so that
        nobody's turn is lost by having been barred for a while."""
        allowed = torch.ones_like(self._left) if allowed is None or not allowed.any() else allowed
        parts: list[Tensor] = []
        missing = count
        while missing > 0:
            part = self._order[(self._left & allowed)[self._order]][:missing]
            if not len(part):
                n, device = len(self._order), generator.device
                self._order = torch.randperm(n, generator=generator, device=device).cpu()
                self._left = torch.ones_like(self._left)
                continue
            self._left[part] = False
            missing -= len(part)
            parts.append(part)
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)

    def state(self) -> dict[str, Tensor]:
        """Order and what is left of it."""
        return {"order": self._order.clone(), "left": self._left.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`. Raises CheckpointError for another size."""
        self._order, self._left = (
            copy_task_values(state["order"], self._order),
            copy_task_values(state["left"], self._left),
        )
