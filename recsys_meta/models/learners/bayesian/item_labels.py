"""Labels that items got from past entities: sums for an item's level, cross-fitted for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import FIRST, IntArray
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.functional.two_way_means import two_way_means

ITEM_SHRINK = 3.0
"""Pseudo-rows of an item's term while the entities' terms are fitted; learners shrink the item's level themselves."""


@dataclass(frozen=True)
class StandardizedLabels:
    """Rows of past entities: entity [R] counted from 0, item [R], residual [R], the label less mean and entity's term
    in units of the labels' standard deviation. mean and unit []: label = mean + unit * standardized; spread []: the
    standard deviation of the entities' terms."""

    entity: Tensor
    item: Tensor
    residual: Tensor
    mean: Tensor
    unit: Tensor
    spread: Tensor

    @classmethod
    def of(cls, data: Dataset, entities: IntArray) -> Self:
        """Labels of the given entities [E]."""
        entity, item, label = EventIndex.of(data).of_entities(np.asarray(entities, np.int64))
        unit = label.std(correction=0) if len(label) else torch.ones(())
        unit = unit if unit > 0 else torch.ones(())
        mean, _, terms = two_way_means(
            entity, item, label, entities=len(entities), catalogue=data.catalogue, item_shrink=ITEM_SHRINK
        )
        residual = (label - mean - terms[entity]) / unit
        spread = terms.std(correction=0) / unit if len(terms) else torch.zeros(())
        return cls(entity, item, residual, mean, unit, spread)

    def item_sums(self, catalogue: int) -> tuple[Tensor, Tensor]:
        """Sum of residuals and number of rows of each item, [C] float32; 0 for the reserved ids."""
        return _item_sums(self.item, self.residual, catalogue)

    def without_fold(self, fold: Tensor, folds: int, catalogue: int) -> tuple[Tensor, Tensor]:
        """Sums and numbers of `item_sums` without the entities of each fold, [folds + 1, C]; the last of all entities.

        fold [E] int64 is that of each entity.
        """
        row_fold = fold[self.entity]
        parts = [_item_sums(self.item[row_fold != f], self.residual[row_fold != f], catalogue) for f in range(folds)]
        parts.append(self.item_sums(catalogue))
        return torch.stack([total for total, _ in parts]), torch.stack([count for _, count in parts])


def _item_sums(item: Tensor, residual: Tensor, catalogue: int) -> tuple[Tensor, Tensor]:
    total = torch.bincount(item, residual.double(), minlength=catalogue).float()
    count = torch.bincount(item, minlength=catalogue).float()
    total[:FIRST] = 0
    count[:FIRST] = 0
    return total, count


@dataclass(frozen=True)
class CrossFittedLabels:
    """Item sums for training: total and count [F + 1, C], each without one fold of the entities, the last of all;
    fold [E] of each entity of the data set."""

    total: Tensor
    count: Tensor
    fold: Tensor

    @classmethod
    def of(cls, data: Dataset, entities: IntArray, folds: int, generator: torch.Generator) -> Self:
        """Cross-fit the sums of the given entities in random folds."""
        folds = max(1, min(folds, len(entities)))
        part = torch.randperm(len(entities), generator=generator) % folds
        total, count = StandardizedLabels.of(data, entities).without_fold(part, folds, data.catalogue)
        fold = torch.full((data.events.entity_count,), folds)
        fold[torch.as_tensor(np.asarray(entities))] = part
        return cls(total, count, fold)
