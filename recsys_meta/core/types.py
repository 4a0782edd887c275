"""Tensors that packages pass to one another: interactions, supports and batches of tasks.

Shape letters, used in every signature: T tasks, S support rows, Q query rows, R rows of either kind,
C items of the catalogue, K candidates of a row, H items of a history, L values in a field, D embedding size.

Ids of items and of categorical values are *padded*, as `arrays` says: a catalogue of n items has C = n + 2 rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.arrays import FIRST as FIRST  # noqa: PLC0414 they are to be had here too
from recsys_meta.core.arrays import PAD as PAD  # noqa: PLC0414
from recsys_meta.core.arrays import UNKNOWN as UNKNOWN  # noqa: PLC0414
from recsys_meta.core.arrays import FloatArray as FloatArray  # noqa: PLC0414
from recsys_meta.core.arrays import IntArray as IntArray  # noqa: PLC0414

Params = dict[str, Tensor]
"""Parameters of a model that all tasks share: name -> tensor."""

State = dict[str, Tensor]
"""Adapted state of T entities: name -> tensor whose first dimension is T."""


def move_tensors(value: Any, device: torch.device | str) -> Any:
    """Move a tensor, or all tensors in lists, tuples, dictionaries and dataclasses, to a device; None and other values
    stay."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {k: move_tensors(v, device) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(move_tensors(v, device) for v in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: move_tensors(getattr(value, f.name), device) for f in fields(value) if f.init})
    return value


@dataclass(frozen=True)
class Interactions:
    """Interactions of T tasks, padded: item [T, R] int64, label [T, R] float32, mask [T, R] bool.

    `mask` is True where a row is real. `context`: features of each row, name -> numbers [T, R] float32 (NaN missing)
    or ids [T, R] int64. `history` [T, R, H] int64: items of earlier rows of the same actor in the same task, the latest
    first, PAD after the last. `position` [T, R] int64: index of the row in the data set's events (0 under padding).
    Where tasks have catalogues of their own (`Support.catalogue`), item and history are ids local to that catalogue.
    """

    item: Tensor
    label: Tensor
    mask: Tensor
    context: Mapping[str, Tensor] = field(default_factory=dict)
    history: Tensor | None = None
    position: Tensor | None = None

    @property
    def counts(self) -> Tensor:
        """Number of real rows of each task, [T] float32."""
        return self.sizes.to(self.label.dtype)

    @property
    def sizes(self) -> Tensor:
        """Number of real rows of each task, [T] int64."""
        if self.mask.device.type != "cpu":
            return self.mask.sum(1)
        return torch.from_numpy(self.mask.numpy().sum(1))  # for one entity a third of the time

    @cached_property
    def is_new_item(self) -> Tensor:
        """True for the first real row of every known item, [T, R] bool. Several predictors read it, so it is kept."""
        # In NumPy: for one entity its operations cost a third of torch's.
        item, mask = self.item.cpu().numpy(), self.mask.cpu().numpy()
        known = mask & (item >= FIRST)
        if (item[:, 1:] > item[:, :-1]).all():  # as the rows of a request are: none is there twice
            return torch.from_numpy(known).to(self.item.device)
        ids = item * known
        # Sorted, repetitions stand side by side. Usually there are none.
        in_order = ids.copy()
        in_order.sort(axis=1)
        repeats = (in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] != PAD)
        if repeats.any():
            is_first = np.ones_like(known)
            np.put_along_axis(is_first, np.argsort(ids, axis=1, kind="stable")[:, 1:], ~repeats, 1)
            known &= is_first
        return torch.from_numpy(known).to(self.item.device)

    def map(self, change: Callable[[Tensor], Tensor]) -> Interactions:
        """Apply a function to every tensor."""
        return Interactions(
            change(self.item),
            change(self.label),
            change(self.mask),
            {k: change(v) for k, v in self.context.items()},
            None if self.history is None else change(self.history),
            None if self.position is None else change(self.position),
        )

    def first(self, n: int) -> Interactions:
        """Select the first n rows of each task."""
        return self.map(lambda t: t[:, :n])

    def columns(self, start: int, stop: int) -> Interactions:
        """Select rows start to stop (exclusive) of each task."""
        return self.map(lambda t: t[:, start:stop])

    def of(self, tasks: Tensor) -> Interactions:
        """Select tasks by index or mask."""
        return self.map(lambda t: t[tasks])

    def to(self, device: torch.device) -> Interactions:
        """Move all tensors to a device."""
        return self.map(lambda t: t.to(device))


@dataclass(frozen=True)
class EntityCatalog:
    """Catalogues of T entities, where every entity has items of its own to choose from.

    Column i of every tensor is local id i: 0 is padding, 1 unknown, real items start at 2. item [T, C]: global ids
    (UNKNOWN where the model has no id for the item, PAD where there is no item); features: name -> ids [T, C, L] or
    numbers [T, C]; mask [T, C]: True where there is an item.
    """

    item: Tensor
    features: Mapping[str, Tensor]
    mask: Tensor

    def of(self, tasks: Tensor) -> EntityCatalog:
        """Select tasks by index or mask."""
        return EntityCatalog(self.item[tasks], {k: v[tasks] for k, v in self.features.items()}, self.mask[tasks])

    def to(self, device: torch.device) -> EntityCatalog:
        """Move all tensors to a device."""
        return EntityCatalog(
            self.item.to(device), {k: v.to(device) for k, v in self.features.items()}, self.mask.to(device)
        )


@dataclass(frozen=True)
class Support:
    """Support sets of T tasks: entity features (name -> ids [T, L] or numbers [T]), support rows and, where entities
    have items of their own, their catalogues.

    Rows of a ranking are what was liked; `dislikes` what was not, None where no task has any. A predictor may ignore
    them.
    """

    features: Mapping[str, Tensor]
    rows: Interactions
    catalogue: EntityCatalog | None = None
    dislikes: Interactions | None = None

    @property
    def seen_items(self) -> Tensor:
        """Items of the support, liked or disliked, which no ranking may hold: [T, S + M] int64, PAD elsewhere."""
        liked = self.rows.item * self.rows.mask
        if self.dislikes is None:
            return liked
        return torch.cat([liked, self.dislikes.item * self.dislikes.mask], 1)

    @property
    def size(self) -> int:
        """Number of tasks, T."""
        return int(self.rows.item.shape[0])

    def empty(self) -> Support:
        """Return the supports of the same entities without rows, as before their first interaction."""
        return replace(self, rows=self.rows.first(0), dislikes=None)

    def of(self, tasks: Tensor) -> Support:
        """Select tasks by index or mask."""
        catalogue = None if self.catalogue is None else self.catalogue.of(tasks)
        dislikes = None if self.dislikes is None else self.dislikes.of(tasks)
        return Support({k: v[tasks] for k, v in self.features.items()}, self.rows.of(tasks), catalogue, dislikes)

    def to(self, device: torch.device) -> Support:
        """Move all tensors to a device."""
        catalogue = None if self.catalogue is None else self.catalogue.to(device)
        dislikes = None if self.dislikes is None else self.dislikes.to(device)
        return Support({k: v.to(device) for k, v in self.features.items()}, self.rows.to(device), catalogue, dislikes)


@dataclass(frozen=True)
class TaskBatch:
    """Batch of T episodes: the entities of the data set [T], their supports, and their query rows.

    Labels of the query are for losses and metrics only; `adapt` must never see them. Where several processes share a
    meta-batch each has a part of it, and `shard` says of what.
    """

    entity: Tensor
    support: Support
    query: Interactions
    shard: TaskShard | None = None

    @property
    def whole(self) -> TaskBatch:
        """The meta-batch of which this is a part; itself where it is the whole."""
        return self if self.shard is None else self.shard.whole

    @property
    def share(self) -> float:
        """Share of the meta-batch's tasks that are in this part."""
        return len(self.entity) / max(1, len(self.whole.entity))

    def own(self, values: Tensor) -> Tensor:
        """Values of this part's tasks, among those of all tasks of the meta-batch, [T, ...]."""
        return values if self.shard is None else self.shard.own(values)

    def part(self, rank: int, size: int) -> TaskBatch:
        """Every `size`-th task from number `rank` on, of a whole meta-batch."""
        shard = TaskShard(self, rank, size)
        support, query = self.support, self.query.map(shard.own)
        catalogue = support.catalogue
        if catalogue is not None:
            features = {k: shard.own(v) for k, v in catalogue.features.items()}
            catalogue = EntityCatalog(shard.own(catalogue.item), features, shard.own(catalogue.mask))
        features = {k: shard.own(v) for k, v in support.features.items()}
        dislikes = None if support.dislikes is None else support.dislikes.map(shard.own)
        own_support = Support(features, support.rows.map(shard.own), catalogue, dislikes)
        return TaskBatch(shard.own(self.entity), own_support, query, shard)

    def part_of(self, whole: TaskBatch) -> TaskBatch:
        """Select this part of another form of the meta-batch; all of it where this is the whole."""
        return whole if self.shard is None else whole.part(self.shard.rank, self.shard.size)

    def to(self, device: torch.device) -> TaskBatch:
        """Move all tensors to a device."""
        if self.shard is not None:
            return self.part_of(self.whole.to(device))
        return TaskBatch(self.entity.to(device), self.support.to(device), self.query.to(device))


@dataclass(frozen=True)
class RowSelection:
    """Rows that a step on a batch needs. rows: table -> ids of its rows [n], ascending; params: parameters that are not
    trained, in place of the whole ones; batch: the batch, whose ids are positions among the rows; columns: the tables
    [H, C] whose columns are meant."""

    rows: Mapping[str, Tensor]
    params: Params
    batch: TaskBatch
    columns: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TaskShard:
    """Place of a part in a meta-batch that `size` processes share: every `size`-th task from number `rank` on.

    A loss of a part is its contribution to the mean over all tasks, and what is drawn at random for each task is drawn
    for the whole: so the parts' losses and gradients add up to those of the meta-batch, and generators stay alike.
    """

    whole: TaskBatch
    rank: int
    size: int

    def own(self, values: Tensor) -> Tensor:
        """Values of this part's tasks, among those of all tasks of the meta-batch, [T, ...]."""
        return values[self.rank :: self.size].contiguous()
