"""Uniform task sampling: every entity once an epoch, in a fresh random order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys_meta.core.types import FloatArray
from recsys_meta.training.curricula.base import TaskDraw, TaskFeedback, TaskPool, unwrap_state, wrap_state
from recsys_meta.training.curricula.shuffled_sampler import ShuffledSampler


class UniformCurriculum:
    """Draws entities without replacement; a batch may end one epoch and begin the next.

    Where it stands is all in `state`, so that a resumed run draws what the first would have drawn.
    """

    needs_feedback = False
    needs_difficulty = False

    def __init__(self, pool: TaskPool) -> None:
        self._pool, self._deck, self._drawn = pool, ShuffledSampler(len(pool)), 0

    def sample(self, tasks: int, generator: torch.Generator, allowed: Tensor | None = None) -> TaskDraw:
        """The next `tasks` entities."""
        self._drawn += tasks
        places = self._deck.sample(tasks, generator, allowed)
        return TaskDraw(self._pool.at(places), ("fresh",) * len(places))

    def update(self, lesson: TaskFeedback) -> None:
        """All tasks are alike to it."""

    def set_difficulty(self, difficulty: FloatArray) -> None:
        """All tasks are alike to it."""

    def report(self) -> Mapping[str, float]:
        """Tasks drawn so far, and how many times that is the whole pool."""
        return {"drawn": float(self._drawn), "epochs": self._drawn / len(self._pool)}

    def state(self) -> dict[str, Tensor]:
        """Where it stands, as tensors."""
        return {**wrap_state(self._deck.state(), "deck."), "drawn": torch.tensor(self._drawn)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`. Raises CheckpointError when it belongs to another set of entities."""
        self._deck.restore(unwrap_state(state, "deck."))
        self._drawn = int(state["drawn"])
