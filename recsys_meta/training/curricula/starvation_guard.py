"""Starvation guard: a bound on the rounds that any task waits, whatever the wrapped curriculum prefers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys_meta.core.types import FloatArray
from recsys_meta.training.curricula.base import (
    Curriculum,
    TaskDraw,
    TaskFeedback,
    TaskPool,
    copy_task_values,
    unwrap_state,
    wrap_state,
)


class StarvationGuard:
    """Wrapper that draws every task at least once in the rounds of any `epochs` epochs in a row.

    Due tasks come first in the next meta-batch, as few as the bound needs (earliest deadline first: the bound can be
    kept as long as all tasks fit into its rounds, and they do). It does not change a curriculum that draws every task
    in time by itself.
    """

    def __init__(self, pool: TaskPool, inner: Curriculum, epochs: int) -> None:
        self._pool, self._inner = pool, inner
        self._rounds = max(1, epochs) * pool.epoch
        # Deadlines start spread over the second half of the bound, so that not all tasks are due at once.
        self._waited = torch.arange(len(pool)) * (self._rounds // 2) // len(pool)
        self._forced = 0

    @property
    def needs_feedback(self) -> bool:
        return self._inner.needs_feedback

    @property
    def needs_difficulty(self) -> bool:
        return self._inner.needs_difficulty

    @property
    def rounds(self) -> int:
        """Most rounds that a task waits."""
        return self._rounds

    def sample(self, tasks: int, generator: torch.Generator, allowed: Tensor | None = None) -> TaskDraw:
        """Draw the tasks that are due, and the rest from the other tasks by the wrapped curriculum."""
        due = self._due(tasks)
        self._forced += len(due)
        draw = TaskDraw(self._pool.at(due), ("due",) * len(due))
        if len(due) < tasks:
            others = torch.ones(len(self._pool), dtype=torch.bool) if allowed is None else allowed.clone()
            others[due] = False
            rest = self._inner.sample(tasks - len(due), generator, others if others.any() else allowed)
            positions = torch.cat([due, self._pool.positions(rest.entities)])
            draw = TaskDraw(self._pool.at(positions), draw.stage + rest.stage, rest.prefer)
        self._waited += 1
        self._waited[self._pool.positions(draw.entities)] = 0
        return draw

    def _due(self, tasks: int) -> Tensor:
        """Positions of the fewest tasks to draw now so that all others can still be drawn in time."""
        left = (self._rounds - self._waited).clamp(min=1)  # rounds left to each, this one included
        within = torch.bincount(left, minlength=self._rounds + 1)[1:].cumsum(0)
        # Of those with k rounds left at most, all but what fits into the k - 1 rounds after this one.
        count = min(tasks, int((within - torch.arange(len(within)) * tasks).max()))
        return torch.argsort(left, stable=True)[:count] if count > 0 else left[:0]

    def update(self, feedback: TaskFeedback) -> None:
        self._inner.update(feedback)

    def set_difficulty(self, difficulty: FloatArray) -> None:
        self._inner.set_difficulty(difficulty)

    def report(self) -> Mapping[str, float]:
        """Report of the wrapped curriculum, the longest wait in rounds, and the number of tasks drawn as due."""
        return {**self._inner.report(), "longest_wait": float(self._waited.max()), "due": float(self._forced)}

    def state(self) -> dict[str, Tensor]:
        state = {"waited": self._waited.clone(), "forced": torch.tensor(self._forced)}
        return {**state, **wrap_state(self._inner.state(), "inner.")}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._waited = copy_task_values(state["waited"], self._waited)
        self._forced = int(state["forced"])
        self._inner.restore(unwrap_state(state, "inner."))
