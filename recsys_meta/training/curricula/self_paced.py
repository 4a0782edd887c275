"""Self-paced sampling: tasks that are easy for the learner come first, by a growing threshold."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys_meta.core.types import FloatArray
from recsys_meta.training.curricula.base import TaskDraw, TaskFeedback, TaskPool, copy_task_values, require_share
from recsys_meta.training.curricula.weighted_draw import draw_by_weight


class SelfPacedCurriculum:
    """Sampling with weights v = max(0, 1 - hardness / threshold)^soft, 0 above the threshold.

    soft 0 is the hard rule, all or nothing (Kumar et al. 2010); the linear weights are those of Jiang et al. (2014).
    The threshold is a quantile of the last measured hardness of each task: it grows from `first` to 1 over a share
    `until` of the rounds, after which all tasks weigh the same. A task not drawn yet has weight 1. Hardness counts from
    the least one, so that a loss may have any sign.
    """

    needs_feedback = True
    needs_difficulty = False

    def __init__(self, pool: TaskPool, first: float = 0.5, until: float = 0.5, soft: float = 1.0) -> None:
        self._pool = pool
        self._first, self._until = require_share("first", first, zero=False), require_share("until", until)
        self._soft = max(0.0, float(soft))
        self._hardness = torch.full((len(pool),), torch.nan, dtype=torch.float64)
        self._round = 0

    def weights(self) -> Tensor:
        """Current sampling weight of each task, [n] float64."""
        finite = self._hardness.isfinite()
        weight = torch.ones_like(self._hardness)
        open_share = self._open_share()
        if open_share >= 1 or not finite.any():
            return weight
        hardness = self._hardness[finite]
        hardness = hardness - hardness.min()
        threshold = (
            torch.quantile(hardness, open_share)
            if len(hardness) < 2**20
            else hardness.sort().values[int(open_share * len(hardness))]
        )
        margin = (1 - hardness / threshold.clamp(min=1e-12)).clamp(min=0)
        weight[finite] = margin**self._soft if self._soft else (hardness <= threshold).double()
        return weight

    def _open_share(self) -> float:
        """Quantile of hardness at which the threshold lies now."""
        end = self._until * self._pool.steps
        return 1.0 if self._round >= end else self._first + (1 - self._first) * self._round / end

    def sample(self, tasks: int, generator: torch.Generator, allowed: Tensor | None = None) -> TaskDraw:
        """Draw tasks by their weights, without replacement as long as there are enough."""
        weight = self.weights()
        self._round += 1
        positions = draw_by_weight(weight, tasks, generator, allowed)
        return TaskDraw(self._pool.at(positions), ("weighted",) * len(positions))

    def update(self, feedback: TaskFeedback) -> None:
        """Keep the last measured hardness of each task."""
        hardness = torch.from_numpy(feedback.hardness).double()
        finite = hardness.isfinite()
        self._hardness[self._pool.positions(feedback.entities)[finite]] = hardness[finite]

    def set_difficulty(self, difficulty: FloatArray) -> None:
        """Ignore the difficulty: hardness is measured while training."""

    def report(self) -> Mapping[str, float]:
        """Share of tasks below the threshold, and of tasks measured so far."""
        return {"below": self._open_share(), "met": float(self._hardness.isfinite().double().mean())}

    def state(self) -> dict[str, Tensor]:
        return {"hardness": self._hardness.clone(), "round": torch.tensor(self._round)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._hardness = copy_task_values(state["hardness"], self._hardness)
        self._round = int(state["round"])
