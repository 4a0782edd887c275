"""Features as tensors: rows of encoded columns, and raw values of requests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recsys_meta.core.arrays import FIRST, PAD, UNKNOWN, IntArray
from recsys_meta.core.cells import is_missing, value_text
from recsys_meta.core.dataset import FeatureColumn, FeatureTable, Vocabulary
from recsys_meta.core.errors import DataError
from recsys_meta.core.feature_encoding import parse_feature_numbers, split_values
from recsys_meta.core.schema import FeatureField

_MAX_FLOAT32 = float(np.finfo(np.float32).max)


def lookup_rows(table: FeatureTable, rows: IntArray) -> dict[str, Tensor]:
    """Return the features of T rows of a table: name -> ids [T, L] int64, padded, or numbers [T] float32."""
    return {name: _gather(column, np.asarray(rows)) for name, column in table.items()}


def _gather(column: FeatureColumn, rows: IntArray) -> Tensor:
    if column.indptr is None:
        return torch.from_numpy(np.asarray(column.values[rows], dtype=np.float32))
    start, count = column.indptr[rows], column.indptr[rows + 1] - column.indptr[rows]
    width = max(int(count.max(initial=0)), 1)
    offset = np.arange(width)
    inside = offset < count[:, None]
    if len(column.values) == 0:
        return torch.zeros(len(rows), width, dtype=torch.int64)
    position = np.where(inside, start[:, None] + offset, 0)
    return torch.from_numpy(np.where(inside, column.values[position], 0).astype(np.int64))


def encode_raw(
    fields: Sequence[FeatureField], vocab: Vocabulary, table: str, rows: Sequence[Mapping[str, object]]
) -> dict[str, Tensor]:
    """Encode the features of T entities or items as a request has them: a mapping of field name to value for each.

    `table` is "entity" or "item", the prefix of the id spaces. Fields may be missing; multi-valued fields may be lists.
    Returns name -> ids [T, L] int64 or numbers [T] float32, as `lookup_rows` does. Raises DataError for a field that
    the schema does not have, or a value of a numeric field that is not a number.
    """
    # On the hot path of serving: pandas frames would cost more than the rest of the request.
    names = {f.name for f in fields}
    for row in rows:
        for name in row:
            if name not in names:
                raise DataError(
                    "the model has no such feature",
                    field=name,
                    remedy=f"Known features: {', '.join(sorted(names)) or 'none'}",
                )
    features: dict[str, Tensor] = {}
    for field in fields:
        cells = [row.get(field.name) for row in rows]
        if field.kind == "numeric":
            features[field.name] = torch.tensor([_parse_number(field, cell) for cell in cells], dtype=torch.float32)
            continue
        index = vocab.values[f"{table}.{field.name}"]
        ids = [[_padded_id(index, value) for value in split_values(field, _cell_text(field, cell))] for cell in cells]
        width = max([1, *map(len, ids)])
        padded_ids = [row_ids + [PAD] * (width - len(row_ids)) for row_ids in ids]
        features[field.name] = torch.tensor(padded_ids, dtype=torch.int64).reshape(len(rows), width)
    return features


def unseen_features(
    fields: Sequence[FeatureField], vocab: Vocabulary, table: str, features: Mapping[str, object]
) -> list[str]:
    """Return the names of categorical and multi-valued features that hold a value outside the vocabulary, sorted.

    Such a value has no effect on a score. `table` is "entity" or "item". Text features are not listed: words that the
    data never had are common in them.
    """

    def has_unknown_value(field: FeatureField) -> bool:
        index = vocab.values[f"{table}.{field.name}"]
        values = split_values(field, _cell_text(field, features[field.name]))
        return any(_padded_id(index, value) == UNKNOWN for value in values)

    candidates = [f for f in fields if f.kind in ("categorical", "multi") and f.name in features]
    return sorted(field.name for field in candidates if has_unknown_value(field))


def _cell_text(field: FeatureField, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple | np.ndarray) and field.kind != "multi":  # Arrow lists are arrays in pandas
        return (" " if field.kind == "text" else field.separator).join(value_text(v) for v in value)
    return value_text(value)


_EARLIER_SPELLINGS = {"true": ("True", "1"), "false": ("False", "0")}
"""Booleans in the vocabularies of models that were made before there was one rule; whole numbers may end in ".0"."""


def _padded_id(vocabulary: pd.Index, value: str) -> int:
    for spelling in (value, *_EARLIER_SPELLINGS.get(value, (f"{value}.0",) if value.isdigit() else ())):
        try:
            return int(vocabulary.get_loc(spelling)) + FIRST  # type: ignore[arg-type]  # an int, as values are distinct
        except KeyError:
            continue
    return UNKNOWN


def _parse_number(field: FeatureField, value: object) -> float:
    if isinstance(value, int | float) and abs(value) <= _MAX_FLOAT32:
        return float(value)
    if is_missing(value):
        return math.nan
    return float(parse_feature_numbers(field, pd.Series([value], dtype="object"))[0])
