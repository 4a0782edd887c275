"""The words of the house: what the rooms hand to one another.

Shape letters, used in every signature: T tasks, S support rows, Q query rows, R rows of either kind,
C items of the catalogue, K candidates of a row, H items of a history, L values in a field, D embedding size.

Ids of items and of categorical values are *padded*: 0 is padding, 1 is "unknown", real values start at 2,
so a catalogue of n items has C = n + 2 rows and a table indexed by them needs no offset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PAD, UNKNOWN, FIRST = 0, 1, 2

IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.floating[Any]]

Params = dict[str, Tensor]
"""Shared by all tasks."""

State = dict[str, Tensor]
"""All that is particular to an entity after adaptation; each leaf has a leading T."""


@dataclass(frozen=True)
class Interactions:
    """Interactions of T tasks, padded: item [T, R] int64, label [T, R] float32, mask [T, R] bool.

    `context`: what each row was like, name -> numbers [T, R] float32 (NaN missing) or ids [T, R] int64. `history`
    [T, R, H] int64: items that the actor of the row had met before in the same task, the last one first, 0 where there
    are no more. `position` [T, R] int64: which row of the index it is (0 under padding).
    Where items are a task's own (`Support.catalogue`), item and history are ids local to that catalogue.
    """

    item: Tensor
    label: Tensor
    mask: Tensor
    context: Mapping[str, Tensor] = field(default_factory=dict)
    history: Tensor | None = None
    position: Tensor | None = None

    @property
    def counts(self) -> Tensor:
        """Rows that are real, [T] float32."""
        return self.mask.sum(1).to(self.label.dtype)

    def map(self, change: Callable[[Tensor], Tensor]) -> Interactions:
        """The same with every tensor changed."""
        return Interactions(
            change(self.item),
            change(self.label),
            change(self.mask),
            {k: change(v) for k, v in self.context.items()},
            None if self.history is None else change(self.history),
            None if self.position is None else change(self.position),
        )

    def first(self, n: int) -> Interactions:
        """The first n columns."""
        return self.map(lambda t: t[:, :n])

    def columns(self, start: int, stop: int) -> Interactions:
        """Some of the columns."""
        return self.map(lambda t: t[:, start:stop])

    def of(self, tasks: Tensor) -> Interactions:
        """The rows of some of the tasks."""
        return self.map(lambda t: t[tasks])

    def to(self, device: torch.device) -> Interactions:
        return self.map(lambda t: t.to(device))


@dataclass(frozen=True)
class EntityCatalog:
    """The items that each of T entities may choose from, where every entity has its own.

    Column i of every tensor is local id i: 0 is padding, 1 unknown, real items start at 2. item [T, C]: their global
    ids (UNKNOWN where the model has none, 0 where there is no item); features: name -> ids [T, C, L] or numbers [T, C];
    mask [T, C]: where there is an item.
    """

    item: Tensor
    features: Mapping[str, Tensor]
    mask: Tensor

    def of(self, tasks: Tensor) -> EntityCatalog:
        """Those of some of the tasks."""
        return EntityCatalog(self.item[tasks], {k: v[tasks] for k, v in self.features.items()}, self.mask[tasks])

    def to(self, device: torch.device) -> EntityCatalog:
        return EntityCatalog(
            self.item.to(device), {k: v.to(device) for k, v in self.features.items()}, self.mask.to(device)
        )


@dataclass(frozen=True)
class Support:
    """What is known of T newcomers: entity features (name -> ids [T, L] or numbers [T]), first rows and, where items
    are a task's own, the catalogue of each."""

    features: Mapping[str, Tensor]
    rows: Interactions
    catalogue: EntityCatalog | None = None

    @property
    def size(self) -> int:
        return int(self.rows.item.shape[0])

    def empty(self) -> Support:
        """The same newcomers before their first interaction."""
        return replace(self, rows=self.rows.first(0))

    def of(self, tasks: Tensor) -> Support:
        """Some of the tasks."""
        own = None if self.catalogue is None else self.catalogue.of(tasks)
        return Support({k: v[tasks] for k, v in self.features.items()}, self.rows.of(tasks), own)

    def to(self, device: torch.device) -> Support:
        own = None if self.catalogue is None else self.catalogue.to(device)
        return Support({k: v.to(device) for k, v in self.features.items()}, self.rows.to(device), own)


@dataclass(frozen=True)
class TaskBatch:
    """T episodes: `entity` [T] indexes the data set's entities; query labels never reach `adapt`."""

    entity: Tensor
    support: Support
    query: Interactions

    def to(self, device: torch.device) -> TaskBatch:
        return TaskBatch(self.entity.to(device), self.support.to(device), self.query.to(device))
