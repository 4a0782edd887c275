"""Means of the rows of embedding tables that the values of each field name, of all fields in one pass.

Of many small tables the operations cost more than the numbers: so the tables are joined, and what the N x F fields of N
rows hold is one list of values without padding. The gradient is such a sum too, of the values sorted by id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recsys_meta.core.types import PAD, UNKNOWN, IntArray


class _BagMeans(Function):
    """Sums [B, D] of the rows of a table [V, D] that the values [n] of each bag name, times the bag's share [B, 1];
    offsets [B] are the bags' first values. On the host alone."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, values: Tensor, offsets: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(values, offsets, share)
        ctx.size = len(table)
        return functional.embedding_bag(values, table, offsets, mode="sum").mul_(share)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        values, offsets, share = (x.numpy() for x in ctx.saved_tensors)
        # NumPy sorts integers of 16 bits by their digits, in a tenth of the time.
        order = np.argsort(values.astype(np.min_scalar_type(ctx.size)), kind="stable")
        bag = np.repeat(np.arange(len(offsets)), np.diff(offsets, append=len(values)))[order]
        count = np.bincount(values, minlength=ctx.size)
        starts = torch.from_numpy(np.cumsum(count) - count)
        gradient = gradients[0] * torch.from_numpy(share)
        return functional.embedding_bag(torch.from_numpy(bag), gradient, starts, mode="sum"), None, None, None


def field_means(tables: Sequence[Tensor], ids: Sequence[Tensor]) -> Tensor:
    """Means [N, F, D] of the rows of F tables [V, D] that F fields of N rows name, ids [N, L] each, on the host.

    PAD is no value, and a field without one is 0; ids beyond a table count as unknown.
    """
    width, size = np.array([x.shape[1] for x in ids]), np.array([len(x) for x in tables])
    most = np.repeat(size, width)
    values: IntArray = np.concatenate([x.numpy() for x in ids], 1)
    is_value = values != PAD
    if (values >= most).any():
        values = np.where(values < most, values, UNKNOWN)
    count = np.add.reduceat(is_value, np.cumsum(width) - width, 1, dtype=np.int64).ravel()
    values = (values + np.repeat(np.cumsum(size) - size, width))[is_value]
    table = torch.cat(list(tables)) if len(tables) > 1 else tables[0]
    offsets = torch.from_numpy(np.cumsum(count) - count)
    share = torch.from_numpy(1 / np.maximum(count, 1)).to(table.dtype)[:, None]
    means: Tensor = _BagMeans.apply(table, torch.from_numpy(values), offsets, share)  # type: ignore[no-untyped-call]
    return means.view(len(ids[0]), len(ids), -1)


def first_values(tables: Sequence[Tensor], ids: Sequence[Tensor]) -> Tensor:
    """Vectors [N, F, D] of `field_means` for fields of one value, ids [N, 1] each, on any device, nothing read back."""
    sizes = [len(table) for table in tables]
    offset = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))], device=ids[0].device)
    values = torch.cat(list(ids), 1)
    known = torch.where(values < torch.tensor(sizes, device=offset.device), values, UNKNOWN)
    table = torch.cat(list(tables)) if len(tables) > 1 else tables[0]
    return functional.embedding(known + offset, table) * (values != PAD).to(table.dtype)[:, :, None]
