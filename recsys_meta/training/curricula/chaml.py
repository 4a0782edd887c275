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
    """Two-level curriculum of CHAML (Chen et al. 2021).

    Odd rounds draw tasks as `HardTaskMining` does; even rounds draw the same tasks again with the hardest share
    `members` of their members first in the query, and new members after them. A member is the actor of a row, or where
    rows have no actor its item. It needs a bound on the query rows of an episode (recipe key episodes.max_query):
    without one every member is in the query anyway.
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
        """Draw new tasks, or the last ones with their hard members first."""
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
        positions = torch.cat([last, self._pool.positions(more.entities)])
        return TaskDraw(self._pool.at(positions), draw.stage + more.stage, prefer)

    def update(self, feedback: TaskFeedback) -> None:
        """Keep the tasks, the hardest first, and the positions of the rows of their hard members."""
        self._tasks.update(feedback)
        self._last = torch.unique(self._pool.positions(feedback.entities))
        self._rows = _rows_of_hard_members(self._index, feedback, self._members).cpu()

    def set_difficulty(self, difficulty: FloatArray) -> None:
        """Ignore the difficulty: hardness is measured while training."""

    def report(self) -> Mapping[str, float]:
        """Report of the task level, 1 if the last round was of members (else 0), and the number of their rows."""
        second = 0.0 if self._again else 1.0
        return {**self._tasks.report(), "members": second, "hard_rows": float(len(self._rows))}

    def state(self) -> dict[str, Tensor]:
        state = {"again": torch.tensor(self._again), "last": self._last.clone(), "rows": self._rows.clone()}
        return {**state, **wrap_state(self._tasks.state(), "tasks.")}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._tasks.restore(unwrap_state(state, "tasks."))
        self._again = bool(state["again"])
        self._last, self._rows = state["last"].clone(), state["rows"].clone()


def _rows_of_hard_members(index: EventIndex, feedback: TaskFeedback, share: float) -> Tensor:
    """Positions of all rows of the hardest share of the members in each task's query.

    Raises ConfigError if rows have no positions.
    """
    if feedback.position is None:
        raise ConfigError("the curriculum 'two-level' needs rows that know their position in the index")
    member = (index.item if index.actor is None else index.actor).long()
    member_count = int(member.max()) + 1 if len(member) else 1
    task = torch.arange(len(feedback.mask), device=member.device)
    mask = feedback.mask.to(member.device)
    position, error = feedback.position.to(member.device)[mask], feedback.error.to(member.device)[mask]
    member_key = task[:, None].expand_as(mask)[mask] * member_count + member[position]
    keys, key_index, count = torch.unique(member_key, return_inverse=True, return_counts=True)
    mean = (
        torch.zeros(len(keys), dtype=torch.float64, device=member.device).index_add(0, key_index, error.double())
        / count
    )
    owner = keys // member_count
    # Hardest first within each task, tasks in their order.
    order = torch.argsort(mean, descending=True, stable=True)
    order = order[torch.argsort(owner[order], stable=True)]
    members_of_task = torch.bincount(owner, minlength=len(task)).double()
    rank = torch.arange(len(order), device=member.device) - (members_of_task.cumsum(0) - members_of_task)[owner[order]]
    hard = keys[order[rank < (members_of_task[owner[order]] * share - 1e-9).ceil()]]
    of_task, rows = index.flatten(torch.as_tensor(feedback.entities, device=member.device))
    # An entity that was drawn twice has its rows twice, which is harmless: they only mark rows.
    return rows[torch.isin(of_task * member_count + member[rows], hard)]
