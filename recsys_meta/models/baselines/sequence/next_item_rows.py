"""Next-item rows of training entities: each row's item, the item that follows it, and mini-batches of padded pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recsys_meta.core.types import PAD
from recsys_meta.episodes.event_index import shuffle_within


class SequenceBatch(NamedTuple):
    """Mini-batch of T pieces of sequences: items [T, S], the item after each [T, S], and the mask of real rows."""

    item: Tensor
    target: Tensor
    mask: Tensor


@dataclass(frozen=True)
class NextItemRows:
    """Rows that another row of the same entity follows: entity [N], ascending, item [N], and the next item [N]."""

    entity: Tensor
    item: Tensor
    target: Tensor

    @classmethod
    def of(cls, entity: Tensor, item: Tensor, generator: torch.Generator | None = None) -> NextItemRows:
        """Pair the items [R] of entities [R], ascending, with their successors.

        Rows follow one another as given; with a generator in a random order.
        """
        if generator is not None:
            item = item[shuffle_within(entity, torch.rand(len(item), generator=generator, dtype=torch.float64))]
        follows = entity[1:] == entity[:-1]
        return cls(entity[1:][follows], item[:-1][follows], item[1:][follows])

    def __len__(self) -> int:
        return len(self.item)

    def first_rows(self, rows: int) -> NextItemRows:
        """Keep the first `rows` rows of each entity."""
        return self._select(_positions(_starts(self.entity)) < rows)

    def first(self, rows: int) -> NextItemRows:
        """Keep the first `rows` rows of all."""
        return self._select(torch.arange(len(self)) < rows)

    def _select(self, keep: Tensor) -> NextItemRows:
        return NextItemRows(self.entity[keep], self.item[keep], self.target[keep])

    def batches(
        self, length: int, batch_rows: int, generator: torch.Generator, mean_rows: int | None = None
    ) -> Iterator[SequenceBatch]:
        """Cut the sequences into pieces of at most `length` rows, and yield batches of about `batch_rows` rows.

        With `mean_rows` they are cut at random places as well, into pieces of so many rows on average. A batch holds
        pieces of similar lengths, which leaves little padding; batches come in random order.
        """
        begins = _starts(self.entity)
        if mean_rows is not None:
            begins |= torch.rand(len(self), generator=generator) < 1 / mean_rows
        begins |= _positions(begins) % length == 0
        start = begins.nonzero().flatten()
        count = torch.diff(start, append=torch.tensor([len(self)]))
        order = torch.argsort(count + torch.rand(len(count), generator=generator))
        batch = (count[order].cumsum(0) - 1) // batch_rows
        parts = torch.split(order, torch.unique_consecutive(batch, return_counts=True)[1].tolist())
        for i in torch.randperm(len(parts), generator=generator).tolist():
            yield self._batch(start[parts[i]], count[parts[i]])

    def _batch(self, start: Tensor, count: Tensor) -> SequenceBatch:
        """Pad the pieces that begin at row `start` [T] and have `count` [T] rows."""
        column = torch.arange(int(count.max()))
        mask = column < count[:, None]
        row = (start[:, None] + column).clamp(max=len(self) - 1)
        return SequenceBatch(self.item[row].masked_fill(~mask, PAD), self.target[row].masked_fill(~mask, PAD), mask)


def _starts(entity: Tensor) -> Tensor:
    """Mask of the rows [N] that are the first of their entity."""
    starts = torch.ones_like(entity, dtype=torch.bool)
    starts[1:] = entity[1:] != entity[:-1]
    return starts


def _positions(begins: Tensor) -> Tensor:
    """Number of rows between each row [N] and the last one before it, or at it, that `begins` [N] marks."""
    start = begins.nonzero().flatten()
    return torch.arange(len(begins)) - start[begins.cumsum(0) - 1]
