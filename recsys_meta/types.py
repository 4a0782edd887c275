"""The words of the house: what the rooms hand to one another.

Shape letters, used in every signature: T tasks, S support rows, Q query rows, R rows of either kind,
C items of the catalogue, L values in a field, D embedding size.

Ids of items and of categorical values are *padded*: 0 is padding, 1 is "unknown", real values start at 2,
so a catalogue of n items has C = n + 2 rows and a table indexed by them needs no offset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
class Rows:
    """Interactions of T tasks, padded: item [T, R] int64, label [T, R] float32, mask [T, R] bool."""

    item: Tensor
    label: Tensor
    mask: Tensor

    @property
    def counts(self) -> Tensor:
        """Rows that are real, [T] float32."""
        return self.mask.sum(1).to(self.label.dtype)

    def first(self, n: int) -> Rows:
        """The first n columns."""
        return Rows(self.item[:, :n], self.label[:, :n], self.mask[:, :n])

    def to(self, device: torch.device) -> Rows:
        return Rows(self.item.to(device), self.label.to(device), self.mask.to(device))


@dataclass(frozen=True)
class Support:
    """What is known of T newcomers: entity features (name -> ids [T, L] or numbers [T]) and first rows."""

    features: Mapping[str, Tensor]
    rows: Rows

    @property
    def size(self) -> int:
        return int(self.rows.item.shape[0])

    def empty(self) -> Support:
        """The same newcomers before their first interaction."""
        return replace(self, rows=self.rows.first(0))

    def to(self, device: torch.device) -> Support:
        return Support({k: v.to(device) for k, v in self.features.items()}, self.rows.to(device))


@dataclass(frozen=True)
class TaskBatch:
    """T episodes: `entity` [T] indexes the data set's entities; query labels never reach `adapt`."""

    entity: Tensor
    support: Support
    query: Rows

    def to(self, device: torch.device) -> TaskBatch:
        return TaskBatch(self.entity.to(device), self.support.to(device), self.query.to(device))
