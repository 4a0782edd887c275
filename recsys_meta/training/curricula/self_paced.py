"""Self-paced sampling: what the learner finds easy comes first, by a threshold that grows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys_meta.core.types import FloatArray
from recsys_meta.training.curricula.base import TaskDraw, TaskFeedback, TaskPool, copy_task_values, require_share


class SelfPacedCurriculum:
    """Draws tasks with weights v = max(0, 1 - hardness / threshold)^soft, so v is 0 above the threshold; soft 0 is the
    hard rule, all or nothing (Kumar et al. 2010; the linear weights are those of Jiang et al. 2014).

    The threshold is a quantile of the hardness last seen of each task: it grows from `first` to all over a share
    `until` of the rounds, after which every task weighs the same. A task not met yet has weight 1. Hardness is taken
    from its least so far seen, so that a loss may be of any sign.
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
        """How likely each task is now, up to a factor, [n] float64."""
        known = self._hardness.isfinite()
        weight = torch.ones_like(self._hardness)
        grown = self._grown()
        if grown >= 1 or not known.any():
            return weight
        seen = self._hardness[known]
        seen = seen - seen.min()
        threshold = torch.quantile(seen, grown) if len(seen) < 2**20 else seen.sort().values[int(grown * len(seen))]
        left = (1 - seen / threshold.clamp(min=1e-12)).clamp(min=0)
        weight[known] = left**self._soft if self._soft else (seen <= threshold).double()
        return weight

    def _grown(self) -> float:
        """Share of the tasks below the threshold."""
        end = self._until * self._pool.steps
        return 1.0 if self._round >= end else self._first + (1 - self._first) * self._round / end

    def sample(self, tasks: int, generator: torch.Generator, allowed: Tensor | None = None) -> TaskDraw:
        """Tasks by their weights, without replacement as long as there are enough."""
        weight = self.weights()
        self._round += 1
        if allowed is not None:
            weight = weight.masked_fill(~allowed, 0.0)
        if not (weight > 0).any():
            weight = torch.ones_like(weight) if allowed is None else allowed.double()
        # The largest of log(u) / v are a sample without replacement by v (Efraimidis & Spirakis 2006).
        chance = torch.rand(len(weight), generator=generator, device=generator.device, dtype=torch.float64).cpu()
        key = (chance.clamp(min=1e-300).log() / weight).masked_fill(weight <= 0, -torch.inf)
        some = min(tasks, int((weight > 0).sum()))
        places = torch.topk(key, some).indices
        places = places.repeat(-(-tasks // some))[:tasks]
        return TaskDraw(self._pool.at(places), ("weighted",) * len(places))

    def update(self, lesson: TaskFeedback) -> None:
        """Keep the hardness last seen of each task."""
        hardness = torch.from_numpy(lesson.hardness).double()
        known = hardness.isfinite()
        self._hardness[self._pool.places(lesson.entities)[known]] = hardness[known]

    def set_difficulty(self, difficulty: FloatArray) -> None:
        """It finds out by itself."""

    def report(self) -> Mapping[str, float]:
        """Share of tasks below the threshold, and of tasks met so far."""
        return {"below": self._grown(), "met": float(self._hardness.isfinite().double().mean())}

    def state(self) -> dict[str, Tensor]:
        return {"hardness": self._hardness.clone(), "round": torch.tensor(self._round)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._hardness = copy_task_values(state["hardness"], self._hardness)
        self._round = int(state["round"])
