"""No task starves: a wrapper that bounds how long any task waits, whatever the curriculum inside prefers."""

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
    """Every task is met at least once in any `epochs` epochs' worth of rounds in a row.

    Those whose time has come take places of the next meta-batch first, as few as keep the promise (earliest deadline
    first: it can be kept as long as all tasks fit into the rounds of the bound, and they do). A curriculum that
    reaches everybody in time by itself never feels it.
    """

    def __init__(self, pool: TaskPool, inner: Curriculum, epochs: int) -> None:
        self._pool, self._inner = pool, inner
        self._rounds = max(1, epochs) * pool.epoch
        # Deadlines start spread over the second half of the bound, so that they do not all come at once.
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
        """Meta-batches that no task waits longer than."""
        return self._rounds

    def sample(self, tasks: int, generator: torch.Generator, allowed: Tensor | None = None) -> TaskDraw:
        """The tasks that are due, and for the rest what the curriculum inside chooses among the others."""
        due = self._due(tasks)
        self._forced += len(due)
        draw = TaskDraw(self._pool.at(due), ("due",) * len(due))
        if len(due) < tasks:
            others = torch.ones(len(self._pool), dtype=torch.bool) if allowed is None else allowed.clone()
            others[due] = False
            chosen = self._inner.sample(tasks - len(due), generator, others if others.any() else allowed)
            places = torch.cat([due, self._pool.places(chosen.entities)])
            draw = TaskDraw(self._pool.at(places), draw.stage + chosen.stage, chosen.prefer)
        self._waited += 1
        self._waited[self._pool.places(draw.entities)] = 0
        return draw

    def _due(self, tasks: int) -> Tensor:
        """Places of the fewest tasks to draw now so that all others can still be drawn in time."""
        left = (self._rounds - self._waited).clamp(min=1)  # rounds left to each, this one included
        within = torch.bincount(left, minlength=self._rounds + 1)[1:].cumsum(0)
        # Of those with k rounds left at most, all but what fits into the k - 1 rounds after this one.
        count = min(tasks, int((within - torch.arange(len(within)) * tasks).max()))
        return torch.argsort(left, stable=True)[:count] if count > 0 else left[:0]

    def update(self, lesson: TaskFeedback) -> None:
        self._inner.update(lesson)

    def set_difficulty(self, difficulty: FloatArray) -> None:
        self._inner.set_difficulty(difficulty)

    def report(self) -> Mapping[str, float]:
        """What the curriculum inside reports, the longest wait in rounds, and how many tasks were drawn for it."""
        return {**self._inner.report(), "longest_wait": float(self._waited.max()), "due": float(self._forced)}

    def state(self) -> dict[str, Tensor]:
        own = {"waited": self._waited.clone(), "forced": torch.tensor(self._forced)}
        return {**own, **wrap_state(self._inner.state(), "inner.")}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._waited = copy_task_values(state["waited"], self._waited)
        self._forced = int(state["forced"])
        self._inner.restore(unwrap_state(state, "inner."))
