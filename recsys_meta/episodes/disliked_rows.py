"""Disliked rows of a data set by entity, and the draw of those that an entity had given before its query."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from recsys_meta.core.types import Interactions


@dataclass(frozen=True)
class DislikedRows:
    """Disliked rows of E entities, entity after entity.

    indptr [E + 1] int64; item [N] int32; likes_before [N] int64: the number of liked rows that the entity has before
    the row.
    """

    indptr: Tensor
    item: Tensor
    likes_before: Tensor

    @classmethod
    def of_rows(cls, indptr: Tensor, item: Tensor, is_liked: Tensor) -> Self:
        """Select the rows that `is_liked` [R] does not mark, from all rows in the order of their times."""
        none = is_liked.new_zeros(1, dtype=torch.int64)
        liked, disliked = (torch.cat([none, mask.cumsum(0)]) for mask in (is_liked, ~is_liked))
        before = liked[:-1] - torch.repeat_interleave(liked[indptr[:-1]], indptr.diff())
        return cls(disliked[indptr], item[~is_liked], before[~is_liked])

    def shuffled(self, likes: Tensor, seed: int) -> Self:
        """Put every row at a random place among its entity's likes, of which there are `likes` [E]."""
        generator = torch.Generator(self.item.device).manual_seed(seed)
        uniform = torch.rand(len(self.item), generator=generator, device=self.item.device, dtype=torch.float64)
        places = torch.repeat_interleave(likes + 1, self.indptr.diff())
        return replace(self, likes_before=(uniform * places).floor().long())

    def draw(self, entities: Tensor, likes: Tensor) -> Interactions:
        """Draw the rows of T entities that come before the last of their first `likes` [T] liked rows, [T, M].

        So an entity without a like in its support has no dislike there either, and no row comes after the query began.
        """
        start, count = self.indptr[entities], self.indptr.diff()[entities]
        task = torch.repeat_interleave(torch.arange(len(entities), device=start.device), count)
        row = torch.arange(len(task), device=start.device) - (count.cumsum(0) - count)[task] + start[task]
        keep = self.likes_before[row] < likes[task]
        task, row = task[keep], row[keep]
        drawn = torch.bincount(task, minlength=len(entities))
        column = torch.arange(len(task), device=task.device) - (drawn.cumsum(0) - drawn)[task]
        width = int(drawn.max()) if len(drawn) else 0
        item = torch.zeros(len(entities), width, dtype=torch.int64, device=task.device)
        item[task, column] = self.item[row].long()
        return Interactions(item, torch.zeros(item.shape, device=item.device), item > 0)

    def to(self, device: torch.device | str) -> Self:
        """Move all tensors to a device."""
        return replace(
            self,
            indptr=self.indptr.to(device),
            item=self.item.to(device),
            likes_before=self.likes_before.to(device),
        )
