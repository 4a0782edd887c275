"""Learning progress: tasks from which there is still something to learn are drawn more often."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys_meta.core.types import FloatArray
from recsys_meta.training.curricula.base import TaskDraw, TaskFeedback, TaskPool, copy_task_values, require_share
from recsys_meta.training.curricula.weighted_draw import draw_by_weight


class LearningProgress:
    """Curriculum by how much a task's hardness has fallen of late (Oudeyer et al. 2007, Graves et al. 2017).

    Hardness itself chases noise: what cannot be learned stays hard for ever. Here a task has a fast and a slow average
    of its hardness, each less the mean of its meta-batch so that what all tasks gain does not count; its progress is
    the slow one less the fast one. A share `explore` of the draw is uniform, the rest by the rank of progress to the
    power `sharpness`: a rank, because one noisy measurement moves a rank less than a value. A task without two
    measurements has the middle rank.
    """

    needs_feedback = True
    needs_difficulty = False

    def __init__(
        self, pool: TaskPool, explore: float = 0.5, sharpness: float = 2.0, fast: float = 0.5, slow: float = 0.1
    ) -> None:
        self._pool = pool
        self._explore, self._sharpness = require_share("explore", explore), max(0.0, float(sharpness))
        self._rates = torch.tensor(
            [require_share("fast", fast, zero=False), require_share("slow", slow, zero=False)], dtype=torch.float64
        )
        self._averages = torch.zeros(len(pool), 2, dtype=torch.float64)  # fast and slow
        self._visits = torch.zeros(len(pool), dtype=torch.int64)

    def progress(self) -> Tensor:
        """Progress [n] float64 of each task; 0 for one without two measurements."""
        return torch.where(self._visits > 1, self._averages[:, 1] - self._averages[:, 0], 0.0)

    def weights(self) -> Tensor:
        """Sampling weight [n] of each task, 1 on average."""
        n = len(self._pool)
        rank = torch.empty(n, dtype=torch.float64)
        rank[torch.argsort(self.progress(), stable=True)] = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        rank = torch.where(self._visits > 1, rank, 0.5)
        preferred = rank**self._sharpness
        return self._explore + (1 - self._explore) * preferred / preferred.mean()

    def sample(self, tasks: int, generator: torch.Generator, allowed: Tensor | None = None) -> TaskDraw:
        """Draw tasks by their weights, without replacement as long as there are enough."""
        positions = draw_by_weight(self.weights(), tasks, generator, allowed)
        return TaskDraw(self._pool.at(positions), ("weighted",) * len(positions))

    def update(self, feedback: TaskFeedback) -> None:
        """Move the averages of the measured tasks; the first measurement is both."""
        hardness = torch.from_numpy(feedback.hardness).double()
        finite = hardness.isfinite()
        if not finite.any():
            return
        positions = self._pool.positions(feedback.entities)[finite]
        measured = (hardness[finite] - hardness[finite].mean())[:, None]
        rates = torch.where(self._visits[positions] > 0, 1.0, 0.0)[:, None] * (self._rates - 1) + 1
        self._averages[positions] += rates * (measured - self._averages[positions])
        self._visits[positions] += 1

    def set_difficulty(self, difficulty: FloatArray) -> None:
        """Ignore the difficulty: progress is measured while training."""

    def report(self) -> Mapping[str, float]:
        """Share of tasks measured so far, and the standard deviation of progress over tasks."""
        return {
            "met": float((self._visits > 0).double().mean()),
            "progress": float(self.progress().std(unbiased=False)),
        }

    def state(self) -> dict[str, Tensor]:
        return {"averages": self._averages.clone(), "visits": self._visits.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._averages = copy_task_values(state["averages"], self._averages)
        self._visits = copy_task_values(state["visits"], self._visits)
