"""Event index: the rows of a data set as tensors by entity, and the draw of support and query rows from them.

Nothing here loops over tasks or rows: a batch of tasks is one gather, one sort and one scatter, on the device of the
index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset, Events
from recsys_meta.core.schema import Order
from recsys_meta.core.types import PAD, IntArray, Interactions
from recsys_meta.episodes.disliked_rows import DislikedRows

BoolArray = npt.NDArray[np.bool_]


HISTORY = 30
"""Most items in the history of a row."""


@dataclass(frozen=True)
class EventIndex:
    """Event rows of E entities as tensors on one device, entity after entity.

    indptr [E + 1] int64; item [N] int32, label [N] float32, and where the data set has them context (name -> [N]),
    actor [N] and group [N] int64. Building one copies the rows: build it once and pass it on. `dislikes` are the rows
    of a ranking that are below its `positive`, where there are any; they are no rows of the index.
    """

    indptr: Tensor
    item: Tensor
    label: Tensor
    context: Mapping[str, Tensor] = field(default_factory=dict)
    actor: Tensor | None = None
    group: Tensor | None = None
    dislikes: DislikedRows | None = None

    @classmethod
    def of(cls, data: Dataset, device: torch.device | str = "cpu") -> EventIndex:
        """Build from all rows of a data set; for a ranking or a choice from its positives only, with labels 1."""
        events, schema = data.events, data.schema
        index = cls(
            torch.from_numpy(np.array(events.indptr, np.int64)),
            torch.from_numpy(np.array(events.item, np.int32)),
            torch.from_numpy(np.array(events.label, np.float32)),
            {k: torch.from_numpy(np.array(v)) for k, v in events.context.items()},
            None if events.actor is None else torch.from_numpy(np.array(events.actor, np.int64)),
            None if events.group is None else torch.from_numpy(np.array(events.group, np.int64)),
        ).to(device)
        if schema.objective not in ("ranking", "choice"):
            return index
        if schema.positive is None:
            return replace(index, label=torch.ones_like(index.label))
        is_liked = index.label >= schema.positive
        positives = index.select(is_liked)
        dislikes = None
        if schema.objective == "ranking" and not is_liked.all():
            dislikes = DislikedRows.of_rows(index.indptr, index.item, is_liked)
        return replace(positives, label=torch.ones_like(positives.label), dislikes=dislikes)

    @property
    def counts(self) -> Tensor:
        """Rows of each entity, [E] int64."""
        return self.indptr.diff()

    @cached_property
    def entity(self) -> Tensor:
        """Entity of each row, [N] int64."""
        return torch.repeat_interleave(torch.arange(len(self.counts), device=self.indptr.device), self.counts)

    @cached_property
    def previous(self) -> Tensor:
        """Position of the last earlier row of the same entity and actor, -1 where there is none, [N] int64."""
        if self.actor is None:
            return torch.full_like(self.entity, -1)
        key = self.entity * (int(self.actor.max()) + 1 if len(self.actor) else 1) + self.actor
        order = torch.argsort(key, stable=True)
        same = key[order[1:]] == key[order[:-1]]
        previous_row = torch.full_like(key, -1)
        previous_row[order[1:][same]] = order[:-1][same]
        return previous_row

    @cached_property
    def is_first_occurrence(self) -> Tensor:
        """Mask of the rows that are the first of their entity, actor and item, [N] bool."""
        if self.actor is None:
            return torch.ones_like(self.entity, dtype=torch.bool)
        keys = torch.stack([self.entity, self.actor, self.item.long()], 1)
        _, triple = torch.unique(keys, dim=0, return_inverse=True)
        order = torch.argsort(triple, stable=True)
        is_first = torch.ones_like(triple, dtype=torch.bool)
        is_first[order[1:]] = triple[order[1:]] != triple[order[:-1]]
        return is_first

    def entities_with(self, rows: int) -> IntArray:
        """Entities with at least `rows` rows, [n] int64."""
        return torch.nonzero(self.counts >= rows).flatten().cpu().numpy()

    def has_support(self, entities: IntArray, shots: int, least: int, query_from: int = 0) -> BoolArray:
        """Mark the entities [n] with `shots` support rows and at least `least` query rows after them.

        The query begins at row `query_from` at the earliest.
        """
        counts = self.counts.cpu().numpy()[np.asarray(entities)]
        enough: BoolArray = counts >= max(shots, query_from) + least
        return enough

    def of_entities(self, entities: IntArray) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of some entities in long form: (position in `entities`, item, label), each [R]."""
        task, position = self.flatten(torch.as_tensor(entities, device=self.indptr.device))
        return task, self.item[position].long(), self.label[position]

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to every column of rows; entity boundaries stay."""
        return replace(
            self,
            item=change(self.item),
            label=change(self.label),
            context={k: change(v) for k, v in self.context.items()},
            actor=None if self.actor is None else change(self.actor),
            group=None if self.group is None else change(self.group),
        )

    def to(self, device: torch.device | str) -> Self:
        """Move all tensors to a device."""
        # On its own device the index keeps what it has computed of its rows.
        if torch.device(device) == self.indptr.device:
            return self
        dislikes = None if self.dislikes is None else self.dislikes.to(device)
        return replace(self.map(lambda t: t.to(device)), indptr=self.indptr.to(device), dislikes=dislikes)

    def select(self, keep: Tensor) -> Self:
        """Keep the rows that `keep` [N] bool marks, and no dislikes; an entity without any row stays, with 0."""
        below = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
        return replace(self.map(lambda t: t[keep]), indptr=below[self.indptr], dislikes=None)

    def flatten(self, entities: Tensor) -> tuple[Tensor, Tensor]:
        """Task of each row of the entities [T], task after task, and its position in the columns, [R] int64 each."""
        start, count = self.indptr[entities], self.counts[entities]
        task = torch.repeat_interleave(torch.arange(len(entities), device=start.device), count)
        before = count.cumsum(0) - count
        return task, torch.arange(len(task), device=start.device) - (before - start)[task]

    def shuffled(self, seed: int) -> Self:
        """Shuffle the rows within each entity by the seed, which fixes the order of random supports.

        The shuffle of the last seed is kept: all methods of a comparison are evaluated on it.
        """
        if seed not in self._shuffles:
            entities = torch.arange(len(self.indptr) - 1, device=self.indptr.device)
            task, position = self.flatten(entities)
            order = position[_shuffle(task, torch.Generator(self.indptr.device).manual_seed(seed))]
            self._shuffles.clear()
            # The place of a dislike has a seed of its own, so that likes are shuffled as they are without dislikes.
            dislikes = None if self.dislikes is None else self.dislikes.shuffled(self.counts, seed)
            self._shuffles[seed] = replace(self.map(lambda t: t[order]), dislikes=dislikes)
        return self._shuffles[seed]

    @cached_property
    def _shuffles(self) -> dict[int, Self]:
        return {}

    def draw(
        self,
        entities: Tensor,
        shots: Tensor,
        *,
        generator: torch.Generator | None = None,
        max_query: int | None = None,
        query_from: int = 0,
        prefer: Tensor | None = None,
        window: bool = False,
    ) -> tuple[Interactions, Interactions]:
        """Draw support [T, S] and query [T, Q] of T entities.

        The first `shots` [T] rows of each entity are its support, all that follow its query. With a generator the rows
        are shuffled first, so that the support is random; with a generator and `window` support and query are instead a
        random stretch of consecutive rows. An entity with n rows has at most n - 1 support rows. The query begins at
        row `query_from` at the earliest. `max_query` cuts a longer query (to random rows if they are shuffled); rows
        that `prefer` [N] bool marks come first.
        """
        task, position = self.flatten(entities)
        count = self.counts[entities]
        start = count.cumsum(0) - count
        rank = torch.arange(len(task), device=task.device) - start[task]
        support_size = torch.minimum(shots.to(count.device), (count - 1).clamp(min=0))
        if generator is not None and not window:
            position = position[_shuffle(task, generator)]
        elif generator is not None:
            spare = (count - support_size - (max_query or 1)).clamp(min=0)
            uniform = torch.rand(len(count), generator=generator, device=count.device)
            rank = rank - (uniform * (spare + 1)).floor().long()[task]
        row_support_size = support_size[task]
        is_support = (rank >= 0) & (rank < row_support_size)
        is_query = rank >= row_support_size.clamp(min=query_from)
        column = rank - row_support_size.clamp(min=query_from)
        if prefer is not None:
            column = prioritise(task, column, is_query, prefer[position])
        if max_query is not None:
            is_query = is_query & (column < max_query)
        # One search of the marked rows for all columns: an accelerator is waited for once a search.
        support_row, query_row = (mask.nonzero().flatten() for mask in (is_support, is_query))
        support = self.rows(len(entities), task[support_row], rank[support_row], position[support_row])
        query = self.rows(len(entities), task[query_row], column[query_row], position[query_row])
        return support, query

    def rows(
        self, tasks: int, task: Tensor, column: Tensor, position: Tensor, history_rows: Tensor | None = None
    ) -> Interactions:
        """Gather the rows at R positions into [tasks, width], each at its (task, column), padding elsewhere.

        history_rows [R, H]: positions of the rows of each row's history, -1 where there is none; None takes the last
        HISTORY rows of its actor before it.
        """
        width = int(column.max()) + 1 if len(column) else 0

        def scatter(values: Tensor, fill: float = PAD) -> Tensor:
            table = torch.full((tasks, width, *values.shape[1:]), fill, dtype=values.dtype, device=task.device)
            table[task, column] = values
            return table

        history = None
        if self.actor is not None:
            history_rows = self._history(position) if history_rows is None else history_rows
            history = scatter(torch.where(history_rows >= 0, self.item[history_rows.clamp(min=0)].long(), PAD))
        return Interactions(
            scatter(self.item[position].long()),
            scatter(self.label[position]),
            scatter(torch.ones_like(position, dtype=torch.bool), False),
            {k: scatter(v[position] if v.is_floating_point() else v[position].long()) for k, v in self.context.items()},
            history,
            scatter(position),
        )

    def _history(self, position: Tensor) -> Tensor:
        """Positions of the last HISTORY rows of each row's actor before it, [R, HISTORY], -1 where there is none."""
        steps = [position]
        for _ in range(HISTORY):  # a chain of fixed length, all rows at once
            last = steps[-1]
            steps.append(torch.where(last >= 0, self.previous[last.clamp(min=0)], last))
        return torch.stack(steps[1:], 1)


def _shuffle(task: Tensor, generator: torch.Generator) -> Tensor:
    """Random permutation of rows [R] within each task; tasks stay together."""
    sort_key = torch.rand(len(task), generator=generator, device=task.device, dtype=torch.float64)
    return shuffle_within(task, sort_key)


def shuffle_within(task: Tensor, sort_key: Tensor) -> Tensor:
    """Permutation that sorts the rows [R] of each task by their key in [0, 1).

    Rows are given task after task, and stay so.
    """
    # In float32 the sum loses the key to the task's number, from task 32,768 on so much that rows change their task. In
    # float64 it may still round up to the next task; the sort is stable, so that rows of two tasks that tie stay apart.
    return torch.argsort(task.double() + sort_key, stable=True)


def prioritise(task: Tensor, rank: Tensor, is_query: Tensor, is_preferred: Tensor) -> Tensor:
    """Ranks [R] within each task after the preferred query rows are moved to the front; other order is kept."""
    position = is_query.nonzero().flatten()
    order = position[torch.argsort(rank[position], stable=True)]
    order = order[torch.argsort((~is_preferred[order]).long(), stable=True)]
    order = order[torch.argsort(task[order], stable=True)]
    count = torch.bincount(task[position], minlength=int(task.max()) + 1 if len(task) else 0)
    new_rank = rank.clone()
    new_rank[order] = torch.arange(len(order), device=task.device) - (count.cumsum(0) - count)[task[order]]
    return new_rank


def order_rows(index: EventIndex, order: Order, seed: int) -> EventIndex:
    """Index whose rows are in the order in which supports grow: by time as stored, or shuffled by the seed."""
    return index if order == "time" else index.shuffled(seed)


def restrict_to_entities(data: Dataset, index: EventIndex, entities: IntArray) -> Dataset:
    """Data set that holds the index's rows of the given entities and no others.

    Statistics computed from it cannot leak other rows. It has no times, and for a ranking its rows are the positives.
    """
    member = torch.zeros(len(index.counts), dtype=torch.bool, device=index.indptr.device)
    member[torch.as_tensor(entities, device=member.device)] = True
    rows = index.select(member.repeat_interleave(index.counts))
    cpu_rows = rows.to("cpu")
    events = Events(
        cpu_rows.indptr.numpy(),
        cpu_rows.item.numpy(),
        cpu_rows.label.numpy(),
        context={k: v.numpy() for k, v in cpu_rows.context.items()},
        actor=None if cpu_rows.actor is None else cpu_rows.actor.numpy(),
        group=None if cpu_rows.group is None else cpu_rows.group.numpy(),
    )
    return replace(data, events=events, schema=data.schema.model_copy(update={"positive": None}))
