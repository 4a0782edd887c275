"""Small pure networks over dictionaries of tensors.

Weights may carry a leading T: then each task has its own (fast weights) and one batched product serves all.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.dataset import FeatureColumn, FeatureTable
from recsys_meta.core.feature_encoding import lookup_rows
from recsys_meta.core.types import PAD, UNKNOWN, IntArray, Params

QUANTILES = 10
"""Knots of a numeric feature."""


def init_embedding_bag(
    prefix: str, table: FeatureTable, rows: IntArray, dims: int, scale: float, g: torch.Generator
) -> Params:
    """Parameters of a bag of features: one table [V, D] a field.

    A number is placed between knots, quantiles of the values of `rows` (training rows only; a buffer, not trained),
    and has a row for each knot and one for "missing".
    """
    params: Params = {}
    for name, column in table.items():
        key = f"{prefix}.{name}"
        if column.numeric:
            params[f"{key}.knots"] = _knots(column, rows)
            params[f"{key}.weight"] = torch.randn(len(params[f"{key}.knots"]) + 1, dims, generator=g) * scale
        else:
            params[key] = torch.randn(column.size, dims, generator=g) * scale
    return params


def is_buffer(key: str) -> bool:
    """Whether a parameter of a bag, or of the catalogue, is one that no gradient reaches."""
    return key.startswith("catalogue.") or key.endswith(".knots")


def _knots(column: FeatureColumn, rows: IntArray) -> Tensor:
    known = np.asarray(column.values[rows], np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return torch.zeros(1)
    return torch.from_numpy(np.unique(np.quantile(known, np.linspace(0, 1, QUANTILES)).astype(np.float32)))


def linear_interpolation_weights(x: Tensor, places: Tensor) -> Tensor:
    """Weights [T, K] that interpolate linearly between increasing places [K]; constant beyond the ends."""
    gap = places.diff()
    # Each place's hat: up over the gap before it, down over the gap after it.
    end = torch.ones_like(x)[:, None]
    up = torch.cat([end, ((x[:, None] - places[:-1]) / gap).clamp(0, 1)], 1)
    down = torch.cat([((places[1:] - x[:, None]) / gap).clamp(0, 1), end], 1)
    return torch.minimum(up, down)


def embed_fields(params: Mapping[str, Tensor], prefix: str, features: Mapping[str, Tensor]) -> list[Tensor]:
    """One vector [T, D] for each field, in the order of the features: the mean of its values' rows.

    An empty field is a zero vector; ids beyond the table count as unknown.
    """
    vectors = []
    for name, value in features.items():
        key = f"{prefix}.{name}"
        if value.is_floating_point():
            missing = torch.isnan(value)
            places = params[f"{key}.knots"]
            placed = linear_interpolation_weights(torch.where(missing, places[0], value), places).masked_fill(
                missing[:, None], 0.0
            )
            inputs = torch.cat([placed, missing[:, None].to(placed.dtype)], 1)
            vectors.append(inputs @ params[f"{key}.weight"])
        else:
            table = params[key]
            ids = torch.where(value < table.shape[0], value, UNKNOWN)
            vectors.append(functional.embedding_bag(ids, table, mode="mean", padding_idx=PAD))
    return vectors


def init_mlp(prefix: str, sizes: tuple[int, ...], g: torch.Generator) -> Params:
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
    return {f"catalogue.{name}": value for name, value in lookup_rows(table, rows).items()}


def catalogue_features(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `item_features` kept: name -> tensor."""
    return {k.removeprefix("catalogue."): v for k, v in params.items() if k.startswith("catalogue.")}


def item_counts_of(item: Tensor, catalogue: int) -> Tensor:
    """How often each item occurs, [C] float32; the two reserved ids count zero."""
    counts = torch.bincount(item, minlength=catalogue).float()
    counts[:2] = 0
    return counts
