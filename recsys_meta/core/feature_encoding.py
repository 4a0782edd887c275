"""Encoding of features: raw cells to columns of padded ids, and columns to the tensors of a batch.

`split_values` serves both the preparation of a data set and single requests, so that a value is never read in two
ways.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recsys_meta.core.cells import LIST_MARK as LIST_MARK  # noqa: PLC0414 its earlier place
from recsys_meta.core.cells import (
    MISSING_NUMBERS,
    category_text,
    is_missing,
    list_values,
    parse_numbers,
    text_cells,
    value_text,
)
from recsys_meta.core.cells import list_cell as list_cell  # noqa: PLC0414
from recsys_meta.core.dataset import FeatureColumn, FeatureTable, Vocabulary
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import FeatureField
from recsys_meta.core.types import FIRST, PAD, UNKNOWN, IntArray

_WORD_PATTERN = re.compile(r"\w+")
_MAX_FLOAT32 = float(np.finfo(np.float32).max)


def split_values(field: FeatureField, cell: str) -> list[str]:
    """Split one cell (text, or the result of `list_cell`) into its values.

    Values are stripped and distinct, in order of appearance, at most `field.max_values` of them; an empty cell has
    none. Their spelling is that of `category_text`.
    """
    if field.kind == "text":
        parts = _WORD_PATTERN.findall(cell.lower())
    else:
        parts = list_values(cell, field.separator) if field.kind == "multi" else [cell]
        parts = [category_text(raw.strip()) for raw in parts]
    values = dict.fromkeys(parts)
    values.pop("", None)
    return list(values)[: field.max_values]


def explode_values(field: FeatureField, cells: pd.Series) -> tuple[pd.Series, IntArray]:
    """Split cells [n] into the V values of all of them: return the values [V] and the row of each value [V]."""
    values_of_row = [split_values(field, cell) for cell in text_cells(cells)]
    rows = np.repeat(np.arange(len(values_of_row)), [len(values) for values in values_of_row])
    return pd.Series([value for values in values_of_row for value in values], dtype="str"), rows


def build_vocabulary(field: FeatureField, cells: pd.Series) -> pd.Index:
    """Return the distinct values that occur at least `field.min_count` times, sorted.

    Sorted, because ids must not depend on the order of the rows.
    """
    values, _ = explode_values(field, cells)
    counts = values.value_counts()
    index: pd.Index = pd.Index(sorted(counts[counts >= field.min_count].index), dtype="str")
    return index


def encode_column(field: FeatureField, cells: pd.Series, vocabulary: pd.Index) -> FeatureColumn:
    """Encode cells [n] as a column of n rows; values outside the vocabulary become UNKNOWN, empty cells stay empty.

    Raises DataError if a cell of a numeric field is not a finite number (NaN means missing).
    """
    if field.kind == "numeric":
        return FeatureColumn(field.name, _parse_numbers(field, cells))
    values, rows = explode_values(field, cells)
    position = vocabulary.get_indexer(pd.Index(values, dtype=vocabulary.dtype))
    ids = np.where(position >= 0, position + FIRST, UNKNOWN).astype(np.int32)
    indptr = np.zeros(len(cells) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(cells)), out=indptr[1:])
    return FeatureColumn(field.name, ids, indptr, len(vocabulary) + FIRST)


def _parse_numbers(field: FeatureField, cells: pd.Series) -> np.ndarray:
    exact, empty = parse_numbers(cells)
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite, and are refused below
        numbers = exact.astype(np.float32)
    missing = empty.copy()
    unread = np.flatnonzero(np.isnan(exact) & ~empty)
    if len(unread):
        missing[unread] = text_cells(cells.iloc[unread]).str.lower().isin(MISSING_NUMBERS).to_numpy(bool)
    invalid = ~missing & ~np.isfinite(numbers)
    if invalid.any():
        first = int(np.flatnonzero(invalid)[0])
        raise DataError(
            f"{cells.iloc[first]!r} is not a finite number",
            field=field.source,
            remedy="Give a number or leave it empty",
        )
    return np.where(missing, np.float32(np.nan), numbers)


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
    return float(_parse_numbers(field, pd.Series([value], dtype="object"))[0])
