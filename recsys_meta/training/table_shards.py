"""Tables of which each process of a training group holds the rows that a hash of their id gives it.

All processes draw the same meta-batch and so know alike which rows a step reads: their ids need not be exchanged. The
rows are: each process adds those that it has to zeros in place of the others, and the sum is what every one trains on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys_meta.core.types import Params
from recsys_meta.training.training_group import TrainingGroup

MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)
"""Odd number next to 2^64 over the golden ratio (Knuth, TAOCP 6.4), as a signed one: ids in any regular pattern are
spread evenly."""
BLOCK_ROWS = 65_536
"""Rows that are sent to the first process at a time: what that takes beside the table does not grow with it."""


def row_owner(ids: Tensor, processes: int) -> Tensor:
    """Number of the process that holds each row, [n] int64, of ids [n] int64."""
    return ((ids * MULTIPLIER) >> 32) % processes


class TableShards:
    """Rows of sharded tables in this process. `shapes`: name of a table -> shape [C, ...] of the whole of it."""

    def __init__(self, group: TrainingGroup, shapes: Mapping[str, torch.Size]) -> None:
        self.group = group
        self.shapes = dict(shapes)
        # Tables of the same length have the same rows here, and share the list of them.
        by_length = {n: _own_ids(n, group) for n in {shape[0] for shape in self.shapes.values()}}
        self._own_ids = {k: by_length[shape[0]] for k, shape in self.shapes.items()}

    def placeholders(self) -> Params:
        """Tensors of the whole tables' shapes without numbers."""
        return {k: torch.empty(shape, device="meta") for k, shape in self.shapes.items()}

    def all_ids(self, key: str) -> Tensor:
        """Ids of all rows of a table."""
        return torch.arange(self.shapes[key][0])

    def part(self, key: str, whole: Tensor) -> Tensor:
        """Copy of the rows that this process holds of a tensor with a table's rows."""
        return whole[self._own_ids[key]]

    def locate(self, key: str, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Positions among the ids, ascending, of the rows that this process holds, and where they lie in its part."""
        place = (row_owner(ids, self.group.size) == self.group.rank).nonzero().flatten()
        return place, torch.searchsorted(self._own_ids[key], ids[place])

    def exchange(self, place: Tensor, rows: Tensor, count: int) -> Tensor:
        """All `count` rows of some ids, in every process, each of which gives those at the places that it holds."""
        return self.group.sum_tensor(rows.new_zeros(count, *rows.shape[1:]).index_copy_(0, place, rows))

    def whole(self, key: str, part: Tensor) -> Tensor:
        """Whole of a tensor with a table's rows in the first process, collected in blocks; in the others their part.

        All processes call it for the same tensors in the same order.
        """
        rows, group = self.shapes[key][0], self.group
        every = part.new_empty(rows, *part.shape[1:]) if group.is_first else None
        for start in range(0, rows, BLOCK_ROWS):
            ids = torch.arange(start, min(start + BLOCK_ROWS, rows))
            place, local = self.locate(key, ids)
            block = part.new_zeros(len(ids), *part.shape[1:]).index_copy_(0, place, part[local])
            group.first_sum(block)
            if every is not None:
                every[start : start + len(ids)] = block
        return part if every is None else every


def _own_ids(rows: int, group: TrainingGroup) -> Tensor:
    """Ids of the rows that a process holds of a table with so many, ascending."""
    return (row_owner(torch.arange(rows), group.size) == group.rank).nonzero().flatten()
