"""Encoding of features: raw cells to columns of padded ids; `feature_tensors` has the tensors of a batch.

`split_values` serves both the preparation of a data set and single requests, so that a value is never read in two
ways.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from recsys_meta.core.arrays import FIRST, UNKNOWN, IntArray
from recsys_meta.core.cells import LIST_MARK as LIST_MARK  # noqa: PLC0414 its earlier place
from recsys_meta.core.cells import (
    MISSING_NUMBERS,
    category_text,
    list_values,
    parse_numbers,
    text_cells,
)
from recsys_meta.core.cells import list_cell as list_cell  # noqa: PLC0414
from recsys_meta.core.dataset import FeatureColumn
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import FeatureField

_WORD_PATTERN = re.compile(r"\w+")


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
        return FeatureColumn(field.name, parse_feature_numbers(field, cells))
    values, rows = explode_values(field, cells)
    position = vocabulary.get_indexer(pd.Index(values, dtype=vocabulary.dtype))
    ids = np.where(position >= 0, position + FIRST, UNKNOWN).astype(np.int32)
    indptr = np.zeros(len(cells) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(cells)), out=indptr[1:])
    return FeatureColumn(field.name, ids, indptr, len(vocabulary) + FIRST)


def parse_feature_numbers(field: FeatureField, cells: pd.Series) -> np.ndarray:
    """Parse the cells [n] of a numeric feature to numbers [n] float32, NaN where missing. Raises DataError."""
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
