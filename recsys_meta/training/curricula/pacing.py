"""Pacing from easy to hard: tasks are admitted by difficulty as training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FloatArray
from recsys_meta.training.curricula.base import (
    Curriculum,
    TaskDraw,
    TaskFeedback,
    TaskPool,
    copy_task_values,
    require_share,
    unwrap_state,
    wrap_state,
)

Growth = Literal["step", "linear"]


class PacedCurriculum:
    """Wrapper that admits only the easier tasks to the wrapped curriculum early in training.

    The easiest share `first` of the tasks is open until a share `until` of the rounds is over, then all (growth "step":
    the pacing of CHAML, Chen et al. 2021, with .5 and .5); "linear" admits the others one by one up to then.
    `set_difficulty` must come first; rounds count against the whole run, early stop or not.
    """

    def __init__(
        self, pool: TaskPool, inner: Curriculum, first: float = 0.5, until: float = 0.5, growth: Growth = "step"
    ) -> None:
        if growth not in ("step", "linear"):
            raise ConfigError(f"curriculum.config.growth must be step or linear, got '{growth}'")
        self._pool, self._inner, self._growth = pool, inner, growth
        self._first, self._until = require_share("first", first, zero=False), require_share("until", until)
        self._rank = torch.full((len(pool),), -1)
        self._round = 0

    @property
    def needs_feedback(self) -> bool:
        return self._inner.needs_feedback

    @property
    def needs_difficulty(self) -> bool:
        return int(self._rank[0]) < 0

    def open_count(self) -> int:
        """Number of tasks, the easiest ones, that may be drawn now."""
        end = self._until * self._pool.steps
        if self._round >= end:
            return len(self._pool)
        growth = (1 - self._first) * self._round / end if self._growth == "linear" else 0.0
        return max(1, round((self._first + growth) * len(self._pool)))

    def sample(self, tasks: int, generator: torch.Generator, allowed: Tensor | None = None) -> TaskDraw:
        """Draw from the open tasks by the wrapped curriculum. Raises ConfigError before `set_difficulty`."""
        if self.needs_difficulty:
            raise ConfigError(
                "the curriculum 'paced' must learn how difficult the tasks are (set_difficulty) before it can sample"
            )
        easy = self._rank < self.open_count()
        self._round += 1
        candidates = easy if allowed is None else easy & allowed
        return self._inner.sample(tasks, generator, candidates if candidates.any() else allowed)

    def update(self, feedback: TaskFeedback) -> None:
        self._inner.update(feedback)

    def set_difficulty(self, difficulty: FloatArray) -> None:
        """Order the tasks by difficulty [n], ties by number."""
        if len(difficulty) != len(self._pool):
            raise ValueError(f"{len(difficulty)} difficulties for {len(self._pool)} tasks")
        order = np.argsort(np.asarray(difficulty, np.float64), kind="stable")  # NaN last
        self._rank[torch.from_numpy(order)] = torch.arange(len(order))
        self._inner.set_difficulty(difficulty)

    def report(self) -> Mapping[str, float]:
        """Report of the wrapped curriculum, and the share of open tasks."""
        return {**self._inner.report(), "open": self.open_count() / len(self._pool)}

    def state(self) -> dict[str, Tensor]:
        state = {"rank": self._rank.clone(), "round": torch.tensor(self._round)}
        return {**state, **wrap_state(self._inner.state(), "inner.")}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._rank = copy_task_values(state["rank"], self._rank)
        self._round = int(state["round"])
        self._inner.restore(unwrap_state(state, "inner."))
