"""Small pure networks over dictionaries of tensors.

Weights may carry a leading T: then each task has its own (fast weights) and one batched product serves all.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from recsys_meta.dataset import Column, FeatureTable
from recsys_meta.features import gather
from recsys_meta.types import IntArray, Params


def bag_init(prefix: str, table: FeatureTable, rows: IntArray, dims: int, scale: float, g: torch.Generator) -> Params:
    """Parameters of a bag of features: one table [V, D] a field; numbers get a direction and a missing vector.

    Mean and deviation of numbers come from `rows` (training rows only) and are buffers, not trained.
    """
    params: Params = {}
    for name, column in table.items():
        key = f"{prefix}.{name}"
        if column.numeric:
            params[f"{key}.scale"] = _moments(column, rows)
            params[f"{key}.weight"] = torch.randn(2, dims, generator=g) * scale
        else:
            params[key] = torch.randn(column.size, dims, generator=g) * scale
    return params


def _moments(column: Column, rows: IntArray) -> Tensor:
    known = column.values[rows]
    known = known[np.isfinite(known)]
    if not len(known):
        return torch.tensor([0.0, 1.0])
    return torch.tensor([float(known.mean()), float(known.std()) or 1.0])


def bag_fields(params: Mapping[str, Tensor], prefix: str, features: Mapping[str, Tensor]) -> list[Tensor]:
    """One vector [T, D] for each field, in the order of the features: the mean of its values' rows.

    An empty field is a zero vector; ids beyond the table count as unknown.
    """
    vectors = []
    for name, value in features.items():
        key = f"{prefix}.{name}"
        if value.is_floating_point():
            mean, deviation = params[f"{key}.scale"]
            missing = torch.isnan(value)
            number = ((torch.nan_to_num(value) - mean) / deviation).clamp(-5, 5).masked_fill(missing, 0.0)
            inputs = torch.stack([number, missing.to(number.dtype)], -1)
            vectors.append(inputs @ params[f"{key}.weight"])
        else:
            table = params[key]
            mask = (value > 0).to(table.dtype)
            rows = table[torch.where(value < table.shape[0], value, 1)]
            total = torch.einsum("tld,tl->td", rows, mask)
            vectors.append(total / mask.sum(-1, keepdim=True).clamp(min=1))
    return vectors


def mlp_init(prefix: str, sizes: tuple[int, ...], g: torch.Generator) -> Params:
    """Layers of the given widths: weight [in, out] (He initialisation) and bias [out]."""
    params: Params = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        params[f"{prefix}.{i}.weight"] = torch.randn(fan_in, fan_out, generator=g) * (2 / fan_in) ** 0.5
        params[f"{prefix}.{i}.bias"] = torch.zeros(fan_out)
    return params


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [T, R, in] or [R, in] times weight [in, out] or [T, in, out] -> [T, R, out] (or [R, out])."""
    if bias.dim() == 2:
        bias = bias[:, None, :]
    return x @ weight + bias


def item_features(table: FeatureTable) -> Params:
    """The features of the whole catalogue as tensors, to be kept with the parameters as buffers."""
    rows = np.arange(len(next(iter(table.values()))) if table else 0)
    return {f"catalogue.{name}": value for name, value in gather(table, rows).items()}


def catalogue_features(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `item_features` kept: name -> tensor."""
    return {k.removeprefix("catalogue."): v for k, v in params.items() if k.startswith("catalogue.")}


def counts_of(item: Tensor, catalogue: int) -> Tensor:
    """How often each item occurs, [C] float32; the two reserved ids count zero."""
    counts = torch.bincount(item, minlength=catalogue).float()
    counts[:2] = 0
    return counts
