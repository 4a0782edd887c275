"""Hard task mining: the hardest tasks of the last round are drawn again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.training.curricula.base import (
    TaskDraw,
    TaskFeedback,
    TaskPool,
    copy_task_values,
    require_count,
    require_share,
    unwrap_state,
    wrap_state,
)
from recsys_meta.training.curricula.shuffled_sampler import ShuffledSampler


class HardTaskMining:
    """Curriculum that repeats the hardest tasks of the last meta-batch (first level of CHAML, Chen et al. 2021).

    A share `keep` of each meta-batch are repeats, the rest are drawn without replacement. A task can be hard because
    it is noise, and would then be repeated for ever. Two remedies, off by default: a task is repeated at most `longest`
    rounds in a row (0: as long as it is hard), and hardness is shrunk towards the mean of the meta-batch as if each
    task had `shrink` more query rows of mean error.
    """

    needs_feedback = True
    needs_difficulty = False

    def __init__(self, pool: TaskPool, keep: float = 0.5, longest: int = 0, shrink: float = 0.0) -> None:
        self._pool, self._sampler = pool, ShuffledSampler(len(pool))
        self._keep, self._longest = require_share("keep", keep), require_count("longest", longest)
        self._shrink = max(0.0, float(shrink))
        self._hard = torch.zeros(0, dtype=torch.int64)  # positions of the last round's tasks, the hardest first
        self._streak = torch.zeros(len(pool), dtype=torch.int64)
        self._repeat_count = 0

    def sample(self, tasks: int, generator: torch.Generator, allowed: Tensor | None = None) -> TaskDraw:
        """Draw the hardest tasks of the last round, and new ones."""
        free = torch.ones(len(self._pool), dtype=torch.bool) if allowed is None else allowed.clone()
        hard = self._hard[free[self._hard]]
        if self._longest:
            hard = hard[self._streak[hard] < self._longest]
        repeats = hard[: round(self._keep * tasks)]
        free[repeats] = False
        fresh = self._sampler.sample(tasks - len(repeats), generator, free if free.any() else allowed)
        streak = self._streak[repeats] + 1
        self._streak = torch.zeros_like(self._streak)
        self._streak[repeats] = streak
        self._repeat_count += len(repeats)
        return TaskDraw(self._pool.at(torch.cat([repeats, fresh])), ("kept",) * len(repeats) + ("fresh",) * len(fresh))

    def update(self, feedback: TaskFeedback) -> None:
        """Order the tasks by hardness; one without a measured row is not repeated."""
        hardness = _shrink_hardness(feedback, self._shrink)
        entities, first = np.unique(feedback.entities, return_index=True)
        self._hard = self._pool.positions(_by_hardness(entities, hardness[first]))

    def set_difficulty(self, difficulty: FloatArray) -> None:
        """Ignore the difficulty: hardness is measured while training."""

    def report(self) -> Mapping[str, float]:
        """Number of repeats so far, and of rounds that the longest current repeat has lasted."""
        return {"kept": float(self._repeat_count), "longest_streak": float(self._streak.max())}

    def state(self) -> dict[str, Tensor]:
        state = {"hard": self._hard.clone(), "streak": self._streak.clone(), "kept": torch.tensor(self._repeat_count)}
        return {**state, **wrap_state(self._sampler.state(), "deck.")}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._streak = copy_task_values(state["streak"], self._streak)
        self._hard, self._repeat_count = state["hard"].clone(), int(state["kept"])
        self._sampler.restore(unwrap_state(state, "deck."))


def _shrink_hardness(feedback: TaskFeedback, rows: float) -> FloatArray:
    """Hardness [T] as if each task had `rows` more rows of mean error."""
    finite = np.isfinite(feedback.hardness)
    if not rows or not finite.any():
        return feedback.hardness
    count = feedback.mask.sum(1).cpu().numpy().astype(np.float64)
    shrunken: FloatArray = (count * feedback.hardness + rows * feedback.hardness[finite].mean()) / (count + rows)
    return shrunken


def _by_hardness(entities: IntArray, hardness: FloatArray) -> IntArray:
    """Entities with a finite hardness, the hardest first, ties by number."""
    finite = np.isfinite(hardness)
    return entities[finite][np.argsort(-hardness[finite], kind="stable")]
