"""Feature tables as design matrices for linear baselines."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.dataset import FeatureColumn, FeatureTable
from recsys_meta.core.types import FIRST, IntArray, Params


def common_values(column: FeatureColumn, rows: IntArray, limit: int) -> IntArray:
    """Return the at most `limit` ids of a column most frequent in rows [R], repetitions counting, [V] int64."""
    if column.indptr is None or not len(column.values):
        return np.zeros(0, np.int64)
    weight = np.bincount(rows, minlength=len(column)).astype(np.float64)
    per_value = np.repeat(weight, np.diff(column.indptr))
    count = np.bincount(column.values, per_value, minlength=column.size)
    count[:FIRST] = 0
    order = np.argsort(-count, kind="stable")[:limit]
    return order[count[order] > 0]


def init_design(table: FeatureTable, rows: IntArray, limit: int) -> Params:
    """Fit the encodings that `design_matrix` reads: for ids the column of each value, [V] int64 with -1 for none; for
    numbers the mean and standard deviation, [2].

    Each field has columns for its `limit` most frequent values. Statistics come from `rows` [R] only, repetitions
    counting.
    """
    params: Params = {}
    for name, column in table.items():
        if column.numeric:
            finite = np.asarray(column.values[rows], np.float64)
            finite = finite[np.isfinite(finite)]
            deviation = float(finite.std()) if len(finite) else 0.0
            params[name] = torch.tensor([float(finite.mean()) if len(finite) else 0.0, deviation or 1.0])
        else:
            values = common_values(column, rows, limit)
            column_of_value = np.full(max(column.size, FIRST), -1, np.int64)
            column_of_value[values] = np.arange(len(values))
            params[name] = torch.from_numpy(column_of_value)
    return params


def design_matrix(params: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> Tensor:
    """Return columns [T, F]: for each value with a column its share of the field (one value: 1; three: 1/3 each), for a
    number its z-score (missing: 0), clipped to [-5, 5].

    Fields stand in the order of their names, whatever the order of the keys: that of parameters is lost when they are
    written to a file."""
    columns = [_encode_field(params[name], features[name]) for name in sorted(features)]
    if not columns:
        return torch.zeros(0, 0)
    return torch.cat(columns, 1)


def _encode_field(encoding: Tensor, value: Tensor) -> Tensor:
    """Encode one field, ids [T, L] or numbers [T], as columns [T, W]."""
    if value.is_floating_point():
        number = torch.nan_to_num((value - encoding[0]) / encoding[1]).clamp(-5, 5)
        return number[:, None]
    width = int(encoding.max()) + 1 if len(encoding) else 0
    position = encoding[torch.where(value < len(encoding), value, 1)]
    count = (value > 0).sum(1, keepdim=True).clamp(min=1)
    share = ((position >= 0) & (value > 0)) / count
    total = torch.zeros(len(value), width, device=value.device)
    return total.scatter_add(1, position.clamp(min=0), share) if width else total
