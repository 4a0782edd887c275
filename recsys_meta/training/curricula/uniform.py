"""Uniform task sampling: every entity once an epoch, in a fresh random order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys_meta.core.types import FloatArray
from recsys_meta.training.curricula.base import TaskDraw, TaskFeedback, TaskPool, unwrap_state, wrap_state
from recsys_meta.training.curricula.shuffled_sampler import ShuffledSampler


class UniformCurriculum:
    """Sampling without replacement; a batch may end one epoch and begin the next.

    `state` is complete, so that a resumed run draws what the interrupted one would have drawn.
    """

    needs_feedback = False
    needs_difficulty = False

    def __init__(self, pool: TaskPool) -> None:
        self._pool, self._sampler, self._draw_count = pool, ShuffledSampler(len(pool)), 0

    def sample(self, tasks: int, generator: torch.Generator, allowed: Tensor | None = None) -> TaskDraw:
        """Draw the next `tasks` entities."""
        self._draw_count += tasks
        positions = self._sampler.sample(tasks, generator, allowed)
        return TaskDraw(self._pool.at(positions), ("fresh",) * len(positions))

    def update(self, feedback: TaskFeedback) -> None:
        """Ignore hardness: the draw is uniform."""

    def set_difficulty(self, difficulty: FloatArray) -> None:
        """Ignore difficulty: the draw is uniform."""

    def report(self) -> Mapping[str, float]:
        """Tasks drawn so far, and how many times that is the whole pool."""
        return {"drawn": float(self._draw_count), "epochs": self._draw_count / len(self._pool)}

    def state(self) -> dict[str, Tensor]:
        """State as tensors, for a checkpoint."""
        return {**wrap_state(self._sampler.state(), "deck."), "drawn": torch.tensor(self._draw_count)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`. Raises CheckpointError if it is of another set of entities."""
        self._sampler.restore(unwrap_state(state, "deck."))
        self._draw_count = int(state["drawn"])
