"""Training rows as an interaction matrix X [U, C], item counts and popularity.

Only training entities take part. Repeated interactions count once: x_ui is 1 or 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import FIRST, IntArray, Params
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.functional.item_similarity import (
    MAX_DENSE_ITEMS,
    binary_matrix,
    cooccurrence_counts,
    most_frequent_items,
)
from recsys_meta.models.functional.neighbour_lists import NeighbourLists, affordable_items, cooccurring_items


@dataclass(frozen=True)
class TrainingRows:
    """Rows of U training entities in long form: task [R] from 0 to U - 1, item ids [R], label [R] float32.

    `entities` is U, `catalogue` the number C of item ids with the reserved ones.
    """

    task: IntArray
    item: IntArray
    label: Tensor
    entities: int
    catalogue: int

    @classmethod
    def of(cls, data: Dataset, entities: IntArray) -> TrainingRows:
        """Collect the rows of the entities (ids [U])."""
        task, item, label = EventIndex.of(data).of_entities(np.asarray(entities, np.int64))
        return cls(task.numpy(), item.numpy(), label, len(entities), data.catalogue)

    def binary(self) -> sp.csr_matrix:
        """Return X [U, C], float32 zeros and ones; the columns of the reserved ids are empty."""
        keep = self.item >= FIRST
        return binary_matrix(self.task[keep], self.item[keep], (self.entities, self.catalogue))


@dataclass(frozen=True)
class TrainingMatrix:
    """X [U, C] of training entities, float32 zeros and ones, and what several methods compute from it. Not to be
    changed: methods that are fitted to the same entities share it."""

    entities: IntArray
    matrix: sp.csr_matrix

    @classmethod
    def of(cls, data: Dataset, entities: IntArray) -> TrainingMatrix:
        """Build from the rows of the entities (ids [U]), or return what was built of the same ones last.

        A search over settings fits a dozen times, and to sort ten million rows takes longer than many a fit.
        """
        entities, last = np.asarray(entities, np.int64), data.derived.get("training_matrix")
        if not (isinstance(last, cls) and np.array_equal(last.entities, entities)):
            last = cls(entities.copy(), TrainingRows.of(data, entities).binary())
            data.derived["training_matrix"] = last
        return last

    @cached_property
    def counts(self) -> Tensor:
        """Entities with each item, [C] float32."""
        return item_counts(self.matrix)

    @cached_property
    def popular(self) -> tuple[sp.csr_matrix, Params]:
        """Columns of the most popular items; see `popular_item_columns`."""
        return popular_item_columns(self.matrix)

    @cached_property
    def affordable(self) -> tuple[sp.csr_matrix, Params]:
        """Columns of as many of the most popular items as `affordable_items` finds; see `popular_item_columns`."""
        return popular_item_columns(self.matrix, affordable_items(self.matrix))

    @property
    def is_dense(self) -> bool:
        """True where a dense item-item matrix covers all items that the entities met."""
        return int((self.counts > 0).sum()) <= MAX_DENSE_ITEMS

    def neighbours(self, least: int) -> NeighbourLists:
        """Items of the most co-occurrences with each item, `least` or as many as make MAX_DENSE_ITEMS squared in all,
        whichever are more. Baselines that ask for as many share one search."""
        width = max(least, MAX_DENSE_ITEMS**2 // max(int((self.counts > 0).sum()), 1))
        if width not in self._neighbours:
            self._neighbours[width] = cooccurring_items(self.matrix, self.counts.numpy(), width)
        return self._neighbours[width]

    @cached_property
    def _neighbours(self) -> dict[int, NeighbourLists]:
        return {}

    @cached_property
    def cooccurrence(self) -> Tensor:
        """Entities with both of two of the most popular items, [M, M] float32."""
        return cooccurrence_counts(self.popular[0])


def item_counts(matrix: sp.csr_matrix) -> Tensor:
    """Count the entities with each item, [C] float32."""
    return torch.from_numpy(np.bincount(matrix.indices, minlength=matrix.shape[1]).astype(np.float32))


def log_popularity(counts: Tensor) -> Tensor:
    """Return log(1 + count) over its standard deviation in the catalogue, [C]; the reserved ids score 0."""
    log = torch.log1p(counts)
    log[:FIRST] = 0
    scale = log[FIRST:].std(correction=0) if len(log) > FIRST else torch.tensor(1.0)
    return log / (scale if scale > 0 else 1.0)


def popular_item_columns(matrix: sp.csr_matrix, limit: int = MAX_DENSE_ITEMS) -> tuple[sp.csr_matrix, Params]:
    """Return the columns of X [U, C] for the M items that a dense item-item matrix covers, and their positions.

    "kept" [M]: their ids, ascending; "place" [C]: position of each item among them, or -1. Items of no training entity
    are left out, and so are all but the `limit` most popular ones.
    """
    items, position = most_frequent_items(item_counts(matrix).numpy(), limit)
    return matrix[:, items].tocsr(), {"kept": torch.from_numpy(items), "place": torch.from_numpy(position)}
