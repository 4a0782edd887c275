"""Episodes: which entities meet training, and how their rows become support and query.

`collate` and `draw` are the only doors from ragged to padded. Nothing here loops over tasks or rows: a batch
of tasks is one gather, one sort and one scatter, on whatever device the index lives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recsys_meta.dataset import NO_TIME, Dataset, Events
from recsys_meta.errors import ConfigError
from recsys_meta.features import gather
from recsys_meta.schema import Order
from recsys_meta.types import PAD, IntArray, Rows, Support, TaskBatch


@dataclass(frozen=True)
class Split:
    """Entities of the three parts, disjoint, int64 indices into the data set."""

    train: IntArray
    valid: IntArray
    test: IntArray


def split_by_seed(entities: IntArray, seed: int, shares: tuple[float, float] = (0.7, 0.1)) -> Split:
    """Random split into train, valid and the rest; the same entities and seed give the same split.

    Raises ConfigError when a part would be empty.
    """
    order = np.random.default_rng(seed).permutation(np.sort(np.asarray(entities, np.int64)))
    return _cut(order, shares)


def split_by_time(events: Events, entities: IntArray, shares: tuple[float, float] = (0.7, 0.1)) -> Split:
    """Earliest arrivals train, later ones validate, the last are tested (protocol U4).

    An entity arrives with its first event; one without events comes last. Raises ConfigError without times.
    """
    if events.time is None:
        raise ConfigError("this data set has no times, so it cannot be split by time; split by seed instead")
    chosen = np.sort(np.asarray(entities, np.int64))
    first = events.indptr[chosen]
    arrived = np.where(first < events.indptr[chosen + 1], events.time[np.minimum(first, len(events) - 1)], NO_TIME)
    return _cut(chosen[np.argsort(arrived, kind="stable")], shares)


def _cut(order: IntArray, shares: tuple[float, float]) -> Split:
    first = round(len(order) * shares[0])
    second = first + max(1, round(len(order) * shares[1]))
    parts = order[:first], order[first:second], order[second:]
    if not len(order):
        raise ConfigError(
            "0 entities are too few: none has a usable row; for a ranking, does a label reach `positive` of the schema?"
        )
    if not all(len(p) for p in parts):
        raise ConfigError(
            f"{len(order)} entities are too few to split into train, validation and test by the shares "
            f"{shares[0]:g} and {shares[1]:g}; prepare more data (10 entities are enough for the usual shares)"
        )
    return Split(*(np.sort(p) for p in parts))


@dataclass(frozen=True)
class EventIndex:
    """Events as tensors on one device, with only the rows that count: indptr [E + 1], item [N], label [N]."""

    indptr: Tensor
    item: Tensor
    label: Tensor

    @classmethod
    def of(cls, data: Dataset, device: torch.device | str = "cpu") -> EventIndex:
        """All rows of a data set, or for a ranking only its positives, whose labels become 1."""
        events, schema = data.events, data.schema
        every = cls(
            torch.from_numpy(np.array(events.indptr, np.int64)).to(device),
            torch.from_numpy(np.array(events.item, np.int32)).to(device),
            torch.from_numpy(np.array(events.label, np.float32)).to(device),
        )
        if schema.objective != "ranking":
            return every
        liked = every if schema.positive is None else every.only(every.label >= schema.positive)
        return replace(liked, label=torch.ones_like(liked.label))

    @property
    def counts(self) -> Tensor:
        """Rows of each entity, [E] int64."""
        return self.indptr.diff()

    def having(self, rows: int) -> IntArray:
        """Entities with at least so many rows."""
        return torch.nonzero(self.counts >= rows).flatten().cpu().numpy()

    def of_entities(self, entities: IntArray) -> tuple[Tensor, Tensor, Tensor]:
        """The rows of some entities in long form: (position in `entities`, item, label), each [R]."""
        task, position = self.flat(torch.as_tensor(entities, device=self.indptr.device))
        return task, self.item[position].long(), self.label[position]

    def to(self, device: torch.device | str) -> EventIndex:
        """The same on another device."""
        return EventIndex(self.indptr.to(device), self.item.to(device), self.label.to(device))

    def only(self, keep: Tensor) -> EventIndex:
        """The same entities with the marked rows [N] alone."""
        below = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
        return replace(self, indptr=below[self.indptr], item=self.item[keep], label=self.label[keep])

    def flat(self, entities: Tensor) -> tuple[Tensor, Tensor]:
        """For each row of the entities, task after task: its task and its position in the columns, [R] each."""
        start, count = self.indptr[entities], self.counts[entities]
        task = torch.repeat_interleave(torch.arange(len(entities), device=start.device), count)
        before = count.cumsum(0) - count
        return task, torch.arange(len(task), device=start.device) - (before - start)[task]

    def shuffled(self, seed: int) -> EventIndex:
        """The same rows in a random order within each entity: fixes the order of random supports."""
        every = torch.arange(len(self.indptr) - 1, device=self.indptr.device)
        task, position = self.flat(every)
        order = _shuffle(task, torch.Generator(self.indptr.device).manual_seed(seed))
        return replace(self, item=self.item[position[order]], label=self.label[position[order]])


def _shuffle(task: Tensor, generator: torch.Generator) -> Tensor:
    """A permutation that keeps tasks together and mixes the rows within each."""
    key = torch.rand(len(task), generator=generator, device=task.device, dtype=torch.float64)
    return torch.argsort(task.double() + key)


def draw(
    index: EventIndex,
    entities: Tensor,
    shots: Tensor,
    *,
    generator: torch.Generator | None = None,
    max_query: int | None = None,
) -> tuple[Rows, Rows]:
    """Support and query of T entities, [T, S] and [T, Q].

    The first `shots` [T] rows of each are its support and all that follow its query; with a generator the rows
    are shuffled first, so the support is random. An entity with n rows gives at most n - 1 to the support.
    `max_query` cuts a long query after so many rows (random ones if shuffled).
    """
    task, position = index.flat(entities)
    if generator is not None:
        position = position[_shuffle(task, generator)]
    count = index.counts[entities]
    start = count.cumsum(0) - count
    rank = torch.arange(len(task), device=task.device) - start[task]
    size = torch.minimum(shots.to(count.device), (count - 1).clamp(min=0))[task]
    inside = rank < size
    left = ~inside
    column = rank - size
    if max_query is not None:
        left = left & (column < max_query)
    support = _pad(index, task[inside], rank[inside], position[inside], len(entities))
    query = _pad(index, task[left], column[left], position[left], len(entities))
    return support, query


def _pad(index: EventIndex, task: Tensor, column: Tensor, position: Tensor, tasks: int) -> Rows:
    width = int(column.max()) + 1 if len(column) else 0
    item = torch.full((tasks, width), PAD, dtype=torch.int64, device=task.device)
    label = torch.zeros(tasks, width, device=task.device)
    mask = torch.zeros(tasks, width, dtype=torch.bool, device=task.device)
    item[task, column] = index.item[position].long()
    label[task, column] = index.label[position]
    mask[task, column] = True
    return Rows(item, label, mask)


def batch_of(data: Dataset, entities: IntArray, support: Rows, query: Rows) -> TaskBatch:
    """Join rows with the features of their entities."""
    features = {k: v.to(support.item.device) for k, v in gather(data.entities, entities).items()}
    entity = torch.as_tensor(entities, device=support.item.device)
    return TaskBatch(entity, Support(features, support), query)


def collate(items: list[list[int]], labels: list[list[float]]) -> Rows:
    """Rows of T newcomers given as lists (what serving has) -> padded rows [T, S]. Raises ValueError on unequal
    lengths."""
    count = [len(row) for row in items]
    if [len(row) for row in labels] != count:
        raise ValueError("each support needs one label for each item")
    width = max(count, default=0)
    # Padded as lists: for one newcomer a tenth of the time of the tensor way round.
    item = [row + [PAD] * (width - n) for row, n in zip(items, count, strict=True)]
    label = [row + [0.0] * (width - n) for row, n in zip(labels, count, strict=True)]
    mask = torch.arange(width) < torch.tensor(count, dtype=torch.int64)[:, None]
    shape = len(items), width
    return Rows(torch.tensor(item, dtype=torch.int64).reshape(shape), torch.tensor(label).float().reshape(shape), mask)


def ordered(index: EventIndex, order: Order, seed: int) -> EventIndex:
    """The index with rows in the order in which supports grow: by time as stored, or shuffled by the seed."""
    return index if order == "time" else index.shuffled(seed)


def seen_only(data: Dataset, index: EventIndex, entities: IntArray) -> Dataset:
    """The data set as if there were no rows but those of the given entities in the index.

    What takes statistics from it cannot leak. It has no times, and for a ranking its rows are the positives.
    """
    member = torch.zeros(len(index.counts), dtype=torch.bool, device=index.indptr.device)
    member[torch.as_tensor(entities, device=member.device)] = True
    own = index.only(member.repeat_interleave(index.counts))
    events = Events(*(t.cpu().numpy() for t in (own.indptr, own.item, own.label)))
    return replace(data, events=events, schema=data.schema.model_copy(update={"positive": None}))


def known_times(events: Events) -> float:
    """Share of rows whose time is known."""
    if events.time is None or not len(events):
        return 0.0
    return float(np.mean(np.asarray(events.time) != NO_TIME))
