"""Sampling without replacement, pass after pass over a shuffled order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys_meta.training.curricula.base import copy_task_values


class ShuffledSampler:
    """Positions 0 to size - 1 in random order, each drawn once a pass; a draw may end one pass and begin the next."""

    def __init__(self, size: int) -> None:
        self._order = torch.arange(size)
        self._remaining = torch.zeros(size, dtype=torch.bool)

    def sample(self, count: int, generator: torch.Generator, allowed: Tensor | None = None) -> Tensor:
        """Draw the next `count` positions [count] int64 from those that `allowed` [size] bool marks.

        The others keep their draw in the current pass.
        """
        mask = torch.ones_like(self._remaining) if allowed is None or not allowed.any() else allowed
        parts: list[Tensor] = []
        missing = count
        while missing > 0:
            part = self._order[(self._remaining & mask)[self._order]][:missing]
            if not len(part):
                n, device = len(self._order), generator.device
                self._order = torch.randperm(n, generator=generator, device=device).cpu()
                self._remaining = torch.ones_like(self._remaining)
                continue
            self._remaining[part] = False
            missing -= len(part)
            parts.append(part)
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)

    def state(self) -> dict[str, Tensor]:
        """Order of the pass, and the mask of the positions that remain in it."""
        return {"order": self._order.clone(), "left": self._remaining.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`. Raises CheckpointError for another size."""
        self._order, self._remaining = (
            copy_task_values(state["order"], self._order),
            copy_task_values(state["left"], self._remaining),
        )
