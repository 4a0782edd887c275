"""Hardness-aware sampling: the hardest tasks of the last round are met again."""

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
    """A share `keep` of each meta-batch are the hardest tasks of the one before, the rest come fresh from a deck
    (the first level of CHAML, Chen et al. 2021).

    A task can be hard because it is noise, and then it would be met for ever. Two remedies, off unless asked for:
    a task is kept at most `longest` rounds in a row (0: as long as it is hard), and hardness is shrunk towards the
    mean of the meta-batch as if each task had `shrink` more query rows of mean error.
    """

    needs_feedback = True
    needs_difficulty = False

    def __init__(self, pool: TaskPool, keep: float = 0.5, longest: int = 0, shrink: float = 0.0) -> None:
        self._pool, self._deck = pool, ShuffledSampler(len(pool))
        self._keep, self._longest = require_share("keep", keep), require_count("longest", longest)
        self._shrink = max(0.0, float(shrink))
        self._hard = torch.zeros(0, dtype=torch.int64)  # places of the last round, the hardest first
        self._streak = torch.zeros(len(pool), dtype=torch.int64)
        self._kept = 0

    def sample(self, tasks: int, generator: torch.Generator, allowed: Tensor | None = None) -> TaskDraw:
        """The hardest of the last round, and fresh ones."""
        free = torch.ones(len(self._pool), dtype=torch.bool) if allowed is None else allowed.clone()
        hard = self._hard[free[self._hard]]
        if self._longest:
            hard = hard[self._streak[hard] < self._longest]
        kept = hard[: round(self._keep * tasks)]
        free[kept] = False
        fresh = self._deck.sample(tasks - len(kept), generator, free if free.any() else allowed)
        streak = self._streak[kept] + 1
        self._streak = torch.zeros_like(self._streak)
        self._streak[kept] = streak
        self._kept += len(kept)
        return TaskDraw(self._pool.at(torch.cat([kept, fresh])), ("kept",) * len(kept) + ("fresh",) * len(fresh))

    def update(self, lesson: TaskFeedback) -> None:
        """Remember the order of the tasks by hardness; one of which nothing was asked is not kept."""
        hardness = _shrunk(lesson, self._shrink)
        entities, first = np.unique(lesson.entities, return_index=True)
        self._hard = self._pool.places(_by_hardness(entities, hardness[first]))

    def set_difficulty(self, difficulty: FloatArray) -> None:
        """It finds out by itself."""

    def report(self) -> Mapping[str, float]:
        """Tasks kept so far, and the longest that one now has been."""
        return {"kept": float(self._kept), "longest_streak": float(self._streak.max())}

    def state(self) -> dict[str, Tensor]:
        own = {"hard": self._hard.clone(), "streak": self._streak.clone(), "kept": torch.tensor(self._kept)}
        return {**own, **wrap_state(self._deck.state(), "deck.")}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._streak = copy_task_values(state["streak"], self._streak)
        self._hard, self._kept = state["hard"].clone(), int(state["kept"])
        self._deck.restore(unwrap_state(state, "deck."))


def _shrunk(lesson: TaskFeedback, rows: float) -> FloatArray:
    """Hardness [T] as if each task had so many more rows of mean error."""
    known = np.isfinite(lesson.hardness)
    if not rows or not known.any():
        return lesson.hardness
    count = lesson.mask.sum(1).cpu().numpy().astype(np.float64)
    moved: FloatArray = (count * lesson.hardness + rows * lesson.hardness[known].mean()) / (count + rows)
    return moved


def _by_hardness(entities: IntArray, hardness: FloatArray) -> IntArray:
    """Entities of known hardness, the hardest first, ties by number."""
    known = np.isfinite(hardness)
    return entities[known][np.argsort(-hardness[known], kind="stable")]
