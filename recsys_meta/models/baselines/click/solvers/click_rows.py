"""Training rows of clicks in long form, with the context of each row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset, FeatureColumn, FeatureTable
from recsys_meta.core.feature_tensors import lookup_rows
from recsys_meta.core.types import FIRST, IntArray
from recsys_meta.episodes.event_index import EventIndex


@dataclass(frozen=True)
class ClickRows:
    """Rows of U training entities: task [R] from 0 to U - 1, item ids [R], label [R] float64.

    `context` is a table of R rows. `features` are those of the U entities, name -> ids [U, L] or numbers [U].
    `entities` is U, `catalogue` the number C of item ids with the reserved ones.
    """

    task: Tensor
    item: Tensor
    label: Tensor
    context: FeatureTable
    features: dict[str, Tensor]
    entities: int
    catalogue: int

    @classmethod
    def of(cls, data: Dataset, entities: IntArray) -> ClickRows:
        """Collect the rows of the entities (ids [U])."""
        ids = np.asarray(entities, np.int64)
        index = EventIndex.of(data)
        task, position = index.flatten(torch.from_numpy(ids))
        return cls(
            task,
            index.item[position].long(),
            index.label[position].double(),
            {name: _column(data, name, values[position]) for name, values in index.context.items()},
            lookup_rows(data.entities, ids),
            len(ids),
            data.catalogue,
        )

    def __len__(self) -> int:
        return len(self.item)

    def context_features(self) -> dict[str, Tensor]:
        """Return the context as tensors: name -> ids [R, 1] or numbers [R]."""
        return lookup_rows(self.context, np.arange(len(self)))

    def pair_sums(self, values: Tensor) -> sp.csr_matrix:
        """Sum values [R] over the rows of each pair of entity and item, [U, C]."""
        order, item, indptr = self._by_task
        return sp.csr_matrix((values.numpy()[order], item, indptr), (self.entities, self.catalogue))

    @cached_property
    def _by_task(self) -> tuple[IntArray, IntArray, IntArray]:
        """CSR layout by entity: order of the rows, their items in that order, and index pointers [U + 1]."""
        order = np.argsort(self.task.numpy(), kind="stable")
        counts = np.bincount(self.task.numpy(), minlength=self.entities)
        return (
            order,
            self.item.numpy()[order].astype(np.int32),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        )

    def transpose(self) -> ClickRows:
        """Return the rows with entities and items exchanged, without context and features."""
        return ClickRows(self.item, self.task, self.label, {}, {}, self.catalogue, self.entities)

    def task_sums(self, values: Tensor) -> Tensor:
        """Sum values [R] over the rows of each entity, [U]."""
        return torch.bincount(self.task, values, minlength=self.entities)


def _column(data: Dataset, name: str, values: Tensor) -> FeatureColumn:
    if values.is_floating_point():
        return FeatureColumn(name, values.numpy())
    size = data.vocab.size(f"context.{name}") if f"context.{name}" in data.vocab.values else int(values.max()) + 1
    return FeatureColumn(name, values.numpy(), np.arange(len(values) + 1), max(size, FIRST))
