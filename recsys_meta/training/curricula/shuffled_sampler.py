"""Sampling without replacement, pass after pass over a shuffled order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys_meta.training.curricula.base import copy_task_values

WINDOW = 4_096
"""Positions of the order that are looked through at a time."""


class ShuffledSampler:
    """Positions 0 to size - 1 in random order, each drawn once a pass; a draw may end one pass and begin the next."""

    def __init__(self, size: int) -> None:
        self._order = torch.arange(size)
        self._remaining = torch.zeros(size, dtype=torch.bool)
        self._drawn = size  # positions at the head of the order that are known to be drawn

    def sample(self, count: int, generator: torch.Generator, allowed: Tensor | None = None) -> Tensor:
        """Draw the next `count` positions [count] int64 from those that `allowed` [size] bool marks.

        The others keep their draw in the current pass.
        """
        mask = None if allowed is None or not allowed.any() else allowed
        parts: list[Tensor] = []
        missing = count
        while missing > 0:
            part = self._next(missing) if mask is None else self._allowed(mask)[:missing]
            if not len(part):
                n, device = len(self._order), generator.device
                self._order = torch.randperm(n, generator=generator, device=device).cpu()
                self._remaining = torch.ones_like(self._remaining)
                self._drawn = 0
                continue
            self._remaining[part] = False
            missing -= len(part)
            parts.append(part)
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)

    def _allowed(self, mask: Tensor) -> Tensor:
        """Positions of the order that remain and are marked."""
        return self._order[(self._remaining & mask)[self._order]]

    def _next(self, count: int) -> Tensor:
        """The next positions of the order that remain, at most `count` of them and none at its end: a draw costs what
        it draws, however many there are in all."""
        while self._drawn < len(self._order):
            window = self._order[self._drawn : self._drawn + WINDOW]
            part = self._remaining[window].nonzero().flatten()[:count]
            if len(part):
                self._drawn += int(part[-1]) + 1
                return window[part]
            self._drawn += len(window)
        return self._order[:0]

    def state(self) -> dict[str, Tensor]:
        """Order of the pass, and the mask of the positions that remain in it."""
        return {"order": self._order.clone(), "left": self._remaining.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`. Raises CheckpointError for another size."""
        self._order, self._remaining = (
            copy_task_values(state["order"], self._order),
            copy_task_values(state["left"], self._remaining),
        )
        self._drawn = 0
