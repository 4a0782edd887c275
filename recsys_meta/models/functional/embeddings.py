"""Embedding bags of features, linear layers and perceptrons as pure functions over dictionaries of tensors.

Weights may carry a leading T: then each task has its own (fast weights), and one batched product computes all.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.dataset import Dataset, FeatureTable
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.feature_tensors import lookup_rows
from recsys_meta.core.types import FIRST, PAD, UNKNOWN, IntArray, Params
from recsys_meta.models.functional.field_means import field_means, first_values
from recsys_meta.models.functional.host_reads import is_readable
from recsys_meta.models.functional.interpolation import encode_numbers, quantile_knots

QUANTILES = 10
"""Knots of a numeric feature."""


def require_item_features(data: Dataset, item_id: bool) -> None:
    """Raise ConfigError if items have neither features nor embeddings of their own (`item_id`)."""
    if not item_id and not data.items:
        raise ConfigError(
            f"'{data.schema.name}' has no item features, so items need their own embedding: set item_id = true "
            "(--set config.item_id=true)"
        )


def init_embedding_bag(
    prefix: str, table: FeatureTable, rows: IntArray, dims: int, scale: float, g: torch.Generator
) -> Params:
    """Fresh parameters of an embedding bag: one table [V, D] for each field, under `<prefix>.<field>`.

    A numeric field has knots, quantiles of the values of `rows` (training rows only; a buffer, not trained), under
    `<prefix>.<field>.knots`, and under `<prefix>.<field>.weight` a row for each knot and one for "missing".
    """
    params: Params = {}
    for name, column in table.items():
        key = f"{prefix}.{name}"
        if column.numeric:
            values = np.asarray(column.values[rows], np.float64)
            params[f"{key}.knots"] = quantile_knots(values, QUANTILES)
            params[f"{key}.weight"] = torch.randn(len(params[f"{key}.knots"]) + 1, dims, generator=g) * scale
        else:
            params[key] = torch.randn(column.size, dims, generator=g) * scale
    return params


def is_buffer(key: str) -> bool:
    """True for parameters of embedding bags and of the catalogue that are not trained."""
    return key.startswith("catalogue.") or key.endswith(".knots")


def embed_fields(params: Mapping[str, Tensor], prefix: str, features: Mapping[str, Tensor]) -> list[Tensor]:
    """One vector [T, D] for each field, in the order of their names: the mean of its values' rows.

    By name, because neither a file of parameters nor a caller preserves the order of fields. An empty field is a zero
    vector; ids beyond the table count as unknown.
    """
    return [vector for fields in stack_fields(params, prefix, features) for vector in fields.unbind(1)]


def stack_fields(params: Mapping[str, Tensor], prefix: str, features: Mapping[str, Tensor]) -> list[Tensor]:
    """The vectors of `embed_fields` in one tensor [T, F, D]; none without a field."""
    names, means = _joined_fields(params, prefix, features)
    if not features or len(names) == len(features):
        return [means] if features else []
    joined = dict(zip(names, means.unbind(1), strict=True)) if names else {}
    vectors = []
    for name, value in sorted(features.items()):
        key = f"{prefix}.{name}"
        if name in joined:
            vectors.append(joined[name])
        elif value.is_floating_point():
            vectors.append(encode_numbers(value, params[f"{key}.knots"]) @ params[f"{key}.weight"])
        else:
            table = params[key]
            vectors.append(functional.embedding_bag(_known(value, table), table, mode="mean", padding_idx=PAD))
    return [torch.stack(vectors, 1)]


def _joined_fields(
    params: Mapping[str, Tensor], prefix: str, features: Mapping[str, Tensor]
) -> tuple[list[str], Tensor]:
    """Names, in order, of the fields whose tables are no larger than what is read of them, and their vectors [T, F, D],
    made together: of many small tables the operations cost more than the numbers. On an accelerator these are the
    fields of one value: how many values others have would have to be read back."""
    ids = {k: v for k, v in sorted(features.items()) if not v.is_floating_point()}
    # Tables of selected rows have the reserved ones beside those that are read.
    tables = {k: params[f"{prefix}.{k}"] for k, v in ids.items() if len(params[f"{prefix}.{k}"]) <= v.numel() + FIRST}
    on_host = all(is_readable(v) for v in ids.values())
    if not on_host:
        tables = {k: table for k, table in tables.items() if ids[k].shape[1] == 1}
    if len({table.shape[1:] for table in tables.values()}) != 1:
        return [], torch.empty(0)
    columns = [ids[k] for k in tables]
    means = first_values if all(v.shape[1] == 1 for v in columns) else field_means
    return list(tables), means(list(tables.values()), columns)


def _known(ids: Tensor, table: Tensor) -> Tensor:
    """Ids, those beyond the table as unknown."""
    return torch.where(ids < len(table), ids, UNKNOWN)


def select_fields(params: Mapping[str, Tensor], prefix: str, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The features that an embedding bag has parameters for: fields of too many values may have been left out."""
    return {k: v for k, v in features.items() if f"{prefix}.{k}" in params or f"{prefix}.{k}.knots" in params}


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
    """Features of the whole catalogue as tensors under `catalogue.<field>`, to be stored with the parameters."""
    rows = np.arange(len(next(iter(table.values()))) if table else 0)
    return {f"catalogue.{name}": value for name, value in lookup_rows(table, rows).items()}


def catalogue_features(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Features that `item_features` stored with the parameters: name -> tensor."""
    return {k.removeprefix("catalogue."): v for k, v in params.items() if k.startswith("catalogue.")}
