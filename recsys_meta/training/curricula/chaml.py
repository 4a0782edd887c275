"""Two-level hardness: hard tasks, and in a second alternating stage the hard members within them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FloatArray
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.training.curricula.base import (
    TaskDraw,
    TaskFeedback,
    TaskPool,
    require_share,
    unwrap_state,
    wrap_state,
)
from recsys_meta.training.curricula.hard_task_mining import HardTaskMining


class ChamlCurriculum:
    """Odd rounds choose tasks as `Hardest` does; even rounds meet the same tasks again, and there the hardest share
    `members` of their members is asked about first, new members fill the rest (CHAML, Chen et al. 2021).

    A member is who acts in a row, or where rows have no actor the row's item. It takes a bound on the query rows of an
    episode (recipe key episodes.max_query): without one everybody is asked about anyway.
    """

    needs_feedback = True
    needs_difficulty = False

    def __init__(
        self, pool: TaskPool, keep: float = 0.5, members: float = 0.5, longest: int = 0, shrink: float = 0.0
    ) -> None:
        if pool.index is None:
            raise ConfigError("the curriculum 'two-level' looks within tasks and needs their rows")
        self._pool, self._index = pool, pool.index
        self._tasks = HardTaskMining(pool, keep, longest, shrink)
        self._members = require_share("members", members)
        self._again = False  # whether the next round meets the same tasks
        self._last = torch.zeros(0, dtype=torch.int64)
        self._rows = torch.zeros(0, dtype=torch.int64)  # positions of the rows of hard members

    def sample(self, tasks: int, generator: torch.Generator, allowed: Tensor | None = None) -> TaskDraw:
        """New tasks, or the last ones with their hard members in front."""
        again, self._again = self._again, not self._again
        if not again:
            return self._tasks.sample(tasks, generator, allowed)
        last = (self._last if allowed is None else self._last[allowed[self._last]])[:tasks]
        prefer = torch.zeros(len(self._index.item), dtype=torch.bool, device=self._index.item.device)
        prefer[self._rows.to(prefer.device)] = True
        draw = TaskDraw(self._pool.at(last), ("members",) * len(last), prefer)
        if len(last) == tasks:
            return draw
        free = torch.ones(len(self._pool), dtype=torch.bool) if allowed is None else allowed.clone()
        free[last] = False
        more = self._tasks.sample(tasks - len(last), generator, free if free.any() else allowed)
        places = torch.cat([last, self._pool.places(more.entities)])
        return TaskDraw(self._pool.at(places), draw.stage + more.stage, prefer)

    def update(self, lesson: TaskFeedback) -> None:
        """Remember the tasks, the hardest first, and where the rows of their hard members are."""
        self._tasks.update(lesson)
        self._last = torch.unique(self._pool.places(lesson.entities))
        self._rows = _rows_of_hard_members(self._index, lesson, self._members).cpu()

    def set_difficulty(self, difficulty: FloatArray) -> None:
        """It finds out by itself."""

    def report(self) -> Mapping[str, float]:
        """What the choice of tasks reports, whether the last round was of members, and the rows of hard members."""
        second = 0.0 if self._again else 1.0
        return {**self._tasks.report(), "members": second, "hard_rows": float(len(self._rows))}

    def state(self) -> dict[str, Tensor]:
        own = {"again": torch.tensor(self._again), "last": self._last.clone(), "rows": self._rows.clone()}
        return {**own, **wrap_state(self._tasks.state(), "tasks.")}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._tasks.restore(unwrap_state(state, "tasks."))
        self._again = bool(state["again"])
        self._last, self._rows = state["last"].clone(), state["rows"].clone()


def _rows_of_hard_members(index: EventIndex, lesson: TaskFeedback, part: float) -> Tensor:
    """Positions of all rows of the hardest part of the members that each task was asked about."""
    if lesson.position is None:
        raise ConfigError("the curriculum 'two-level' needs rows that know their position in the index")
    member = (index.item if index.actor is None else index.actor).long()
    most = int(member.max()) + 1 if len(member) else 1
    task = torch.arange(len(lesson.mask), device=member.device)
    mask = lesson.mask.to(member.device)
    position, error = lesson.position.to(member.device)[mask], lesson.error.to(member.device)[mask]
    asked = task[:, None].expand_as(mask)[mask] * most + member[position]
    keys, place, count = torch.unique(asked, return_inverse=True, return_counts=True)
    mean = torch.zeros(len(keys), dtype=torch.float64, device=member.device).index_add(0, place, error.double()) / count
    owner = keys // most
    # Hardest first within each task, tasks in their order.
    order = torch.argsort(mean, descending=True, stable=True)
    order = order[torch.argsort(owner[order], stable=True)]
    many = torch.bincount(owner, minlength=len(task)).double()
    rank = torch.arange(len(order), device=member.device) - (many.cumsum(0) - many)[owner[order]]
    hard = keys[order[rank < (many[owner[order]] * part - 1e-9).ceil()]]
    of_task, rows = index.flatten(torch.as_tensor(lesson.entities, device=member.device))
    # An entity that was drawn twice has its rows twice: they are only marks.
    return rows[torch.isin(of_task * most + member[rows], hard)]
