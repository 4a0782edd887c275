"""Episodes: how the rows of entities become support and query.

`collate` and `draw` are the only doors from ragged to padded. Nothing here loops over tasks or rows: a batch
of tasks is one gather, one sort and one scatter, on whatever device the index lives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset, Events
from recsys_meta.core.schema import Order
from recsys_meta.core.types import PAD, IntArray, Interactions

BoolArray = npt.NDArray[np.bool_]


HISTORY = 30
"""Items that a row's history goes back."""


@dataclass(frozen=True)
class EventIndex:
    """Events as tensors on one device, with only the rows that count.

    indptr [E + 1]; item, label, and where the data have them context (name -> [N]), actor and group: [N].
    """

    indptr: Tensor
    item: Tensor
    label: Tensor
    context: Mapping[str, Tensor] = field(default_factory=dict)
    actor: Tensor | None = None
    group: Tensor | None = None

    @classmethod
    def of(cls, data: Dataset, device: torch.device | str = "cpu") -> EventIndex:
        """All rows of a data set, or for a ranking only its positives, whose labels become 1."""
        events, schema = data.events, data.schema
        every = cls(
            torch.from_numpy(np.array(events.indptr, np.int64)),
            torch.from_numpy(np.array(events.item, np.int32)),
            torch.from_numpy(np.array(events.label, np.float32)),
            {k: torch.from_numpy(np.array(v)) for k, v in events.context.items()},
            None if events.actor is None else torch.from_numpy(np.array(events.actor, np.int64)),
            None if events.group is None else torch.from_numpy(np.array(events.group, np.int64)),
        ).to(device)
        if schema.objective not in ("ranking", "choice"):
            return every
        liked = every if schema.positive is None else every.select(every.label >= schema.positive)
        return replace(liked, label=torch.ones_like(liked.label))

    @property
    def counts(self) -> Tensor:
        """Rows of each entity, [E] int64."""
        return self.indptr.diff()

    @cached_property
    def entity(self) -> Tensor:
        """The entity of each row, [N] int64."""
        return torch.repeat_interleave(torch.arange(len(self.counts), device=self.indptr.device), self.counts)

    @cached_property
    def previous(self) -> Tensor:
        """For each row the last one before it of the same entity and actor, -1 where there is none, [N] int64."""
        if self.actor is None:
            return torch.full_like(self.entity, -1)
        key = self.entity * (int(self.actor.max()) + 1 if len(self.actor) else 1) + self.actor
        order = torch.argsort(key, stable=True)
        same = key[order[1:]] == key[order[:-1]]
        found = torch.full_like(key, -1)
        found[order[1:][same]] = order[:-1][same]
        return found

    @cached_property
    def first_time(self) -> Tensor:
        """Whether each row is the first of its entity, actor and item, [N] bool."""
        if self.actor is None:
            return torch.ones_like(self.entity, dtype=torch.bool)
        keys = torch.stack([self.entity, self.actor, self.item.long()], 1)
        _, kind = torch.unique(keys, dim=0, return_inverse=True)
        order = torch.argsort(kind, stable=True)
        fresh = torch.ones_like(kind, dtype=torch.bool)
        fresh[order[1:]] = kind[order[1:]] != kind[order[:-1]]
        return fresh

    def entities_with(self, rows: int) -> IntArray:
        """Entities with at least so many rows."""
        return torch.nonzero(self.counts >= rows).flatten().cpu().numpy()

    def has_support(self, entities: IntArray, shots: int, least: int, query_from: int = 0) -> BoolArray:
        """Which of the entities have a support of so many shots and at least `least` query rows after it."""
        counts = self.counts.cpu().numpy()[np.asarray(entities)]
        reached: BoolArray = counts >= max(shots, query_from) + least
        return reached

    def of_entities(self, entities: IntArray) -> tuple[Tensor, Tensor, Tensor]:
        """The rows of some entities in long form: (position in `entities`, item, label), each [R]."""
        task, position = self.flatten(torch.as_tensor(entities, device=self.indptr.device))
        return task, self.item[position].long(), self.label[position]

    def map(self, change: Callable[[Tensor], Tensor]) -> EventIndex:
        """The same entities with every column of rows changed."""
        return replace(
            self,
            item=change(self.item),
            label=change(self.label),
            context={k: change(v) for k, v in self.context.items()},
            actor=None if self.actor is None else change(self.actor),
            group=None if self.group is None else change(self.group),
        )

    def to(self, device: torch.device | str) -> EventIndex:
        """The same on another device."""
        return replace(self.map(lambda t: t.to(device)), indptr=self.indptr.to(device))

    def select(self, keep: Tensor) -> EventIndex:
        """The same entities with the marked rows [N] alone."""
        below = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
        return replace(self.map(lambda t: t[keep]), indptr=below[self.indptr])

    def flatten(self, entities: Tensor) -> tuple[Tensor, Tensor]:
        """For each row of the entities, task after task: its task and its position in the columns, [R] each."""
        start, count = self.indptr[entities], self.counts[entities]
        task = torch.repeat_interleave(torch.arange(len(entities), device=start.device), count)
        before = count.cumsum(0) - count
        return task, torch.arange(len(task), device=start.device) - (before - start)[task]

    def shuffled(self, seed: int) -> EventIndex:
        """The same rows in a random order within each entity: fixes the order of random supports."""
        every = torch.arange(len(self.indptr) - 1, device=self.indptr.device)
        task, position = self.flatten(every)
        order = position[_shuffle(task, torch.Generator(self.indptr.device).manual_seed(seed))]
        return self.map(lambda t: t[order])

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
        """Support and query of T entities; see `draw`."""
        task, position = self.flatten(entities)
        count = self.counts[entities]
        start = count.cumsum(0) - count
        rank = torch.arange(len(task), device=task.device) - start[task]
        wanted = torch.minimum(shots.to(count.device), (count - 1).clamp(min=0))
        if generator is not None and not window:
            position = position[_shuffle(task, generator)]
        elif generator is not None:
            spare = (count - wanted - (max_query or 1)).clamp(min=0)
            chance = torch.rand(len(count), generator=generator, device=count.device)
            rank = rank - (chance * (spare + 1)).floor().long()[task]
        size = wanted[task]
        inside = (rank >= 0) & (rank < size)
        left = rank >= size.clamp(min=query_from)
        column = rank - size.clamp(min=query_from)
        if prefer is not None:
            column = prioritise(task, column, left, prefer[position])
        if max_query is not None:
            left = left & (column < max_query)
        support = self.rows(len(entities), task[inside], rank[inside], position[inside])
        query = self.rows(len(entities), task[left], column[left], position[left])
        return support, query

    def rows(
        self, tasks: int, task: Tensor, column: Tensor, position: Tensor, past: Tensor | None = None
    ) -> Interactions:
        """Rows at some positions, padded: each goes to (task, column). `past` [R, H] are the positions of each row's
        history, -1 where there is none; without it, all that its actor did before it."""
        width = int(column.max()) + 1 if len(column) else 0

        def placed(values: Tensor, fill: float = PAD) -> Tensor:
            made = torch.full((tasks, width, *values.shape[1:]), fill, dtype=values.dtype, device=task.device)
            made[task, column] = values
            return made

        history = None
        if self.actor is not None:
            past = self._past(position) if past is None else past
            history = placed(torch.where(past >= 0, self.item[past.clamp(min=0)].long(), PAD))
        return Interactions(
            placed(self.item[position].long()),
            placed(self.label[position]),
            placed(torch.ones_like(position, dtype=torch.bool), False),
            {k: placed(v[position] if v.is_floating_point() else v[position].long()) for k, v in self.context.items()},
            history,
            placed(position),
        )

    def _past(self, position: Tensor) -> Tensor:
        steps = [position]
        for _ in range(HISTORY):  # a chain of fixed length, all rows at once
            last = steps[-1]
            steps.append(torch.where(last >= 0, self.previous[last.clamp(min=0)], last))
        return torch.stack(steps[1:], 1)


def _shuffle(task: Tensor, generator: torch.Generator) -> Tensor:
    """A permutation that keeps tasks together and mixes the rows within each."""
    chance = torch.rand(len(task), generator=generator, device=task.device, dtype=torch.float64)
    return shuffle_within(task, chance)


def shuffle_within(task: Tensor, chance: Tensor) -> Tensor:
    """The permutation that puts the rows [R] of each task in the order of their chance in [0, 1). Rows come task after
    task, and stay so."""
    # In float32 the sum would lose the chance to the number of the task, from 32,768 on enough to change the task. In
    # float64 it may still round up to the next one; stable, because rows of two tasks that tie are then in order.
    return torch.argsort(task.double() + chance, stable=True)


def prioritise(task: Tensor, turn: Tensor, asked: Tensor, liked: Tensor) -> Tensor:
    """Turns [R] with those asked for and liked in front within each task, else in the order they had."""
    place = asked.nonzero().flatten()
    order = place[torch.argsort(turn[place], stable=True)]
    order = order[torch.argsort((~liked[order]).long(), stable=True)]
    order = order[torch.argsort(task[order], stable=True)]
    count = torch.bincount(task[place], minlength=int(task.max()) + 1 if len(task) else 0)
    fresh = turn.clone()
    fresh[order] = torch.arange(len(order), device=task.device) - (count.cumsum(0) - count)[task[order]]
    return fresh


def draw_episodes(
    index: EventIndex,
    entities: Tensor,
    shots: Tensor,
    *,
    generator: torch.Generator | None = None,
    max_query: int | None = None,
    query_from: int = 0,
    prefer: Tensor | None = None,
    window: bool = False,
) -> tuple[Interactions, Interactions]:
    """Support and query of T entities, [T, S] and [T, Q].

    The first `shots` [T] rows of each are its support and all that follow its query; with a generator the rows
    are shuffled first, so the support is random; or, with `window`, the first rows left out, so many that support and
    query are a random stretch of rows as they come. An entity with n rows gives at most n - 1 to the support.
    The query begins at row `query_from` at the earliest. `max_query` cuts a long query after so many rows (random ones
    if shuffled); rows that `prefer` [N] bool marks come first.
    """
    return index.draw(
        entities,
        shots,
        generator=generator,
        max_query=max_query,
        query_from=query_from,
        prefer=prefer,
        window=window,
    )


def order_rows(index: EventIndex, order: Order, seed: int) -> EventIndex:
    """The index with rows in the order in which supports grow: by time as stored, or shuffled by the seed."""
    return index if order == "time" else index.shuffled(seed)


def restrict_to_entities(data: Dataset, index: EventIndex, entities: IntArray) -> Dataset:
    """The data set as if there were no rows but those of the given entities in the index.

    What takes statistics from it cannot leak. It has no times, and for a ranking its rows are the positives.
    """
    member = torch.zeros(len(index.counts), dtype=torch.bool, device=index.indptr.device)
    member[torch.as_tensor(entities, device=member.device)] = True
    own = index.select(member.repeat_interleave(index.counts))
    host = own.to("cpu")
    events = Events(
        host.indptr.numpy(),
        host.item.numpy(),
        host.label.numpy(),
        context={k: v.numpy() for k, v in host.context.items()},
        actor=None if host.actor is None else host.actor.numpy(),
        group=None if host.group is None else host.group.numpy(),
    )
    return replace(data, events=events, schema=data.schema.model_copy(update={"positive": None}))
