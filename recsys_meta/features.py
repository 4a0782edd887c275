"""Features: raw cells to columns of padded ids, and columns to the tensors of a batch.

The same `tokens` serves the preparation of a data set and a single newcomer at serving time, so that a value
can never be read in two ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recsys_meta.dataset import Column, FeatureTable, Vocabulary
from recsys_meta.errors import DataError
from recsys_meta.schema import FeatureField
from recsys_meta.types import FIRST, UNKNOWN, IntArray


def tokens(field: FeatureField, cells: pd.Series) -> tuple[pd.Series, IntArray]:
    """Values of each cell in long form: (values [V], row of each value [V]); an empty cell has none.

    Values of a cell are distinct, in order of appearance, at most `field.max_values` of them.
    """
    text = cells.astype("string").fillna("").str.strip().reset_index(drop=True)
    split: pd.Series[Any]
    if field.kind == "multi":
        split = text.str.split(field.separator, regex=False)
    elif field.kind == "text":
        split = text.str.lower().str.findall(r"\w+")
    else:
        split = text
    long = split.explode().astype("string").str.strip()
    long = long[long.notna() & (long != "")]
    frame = pd.DataFrame({"row": long.index.to_numpy(dtype=np.int64), "value": long.to_numpy()})
    frame = frame.drop_duplicates()
    frame = frame[frame.groupby("row").cumcount() < field.max_values]
    return frame["value"], frame["row"].to_numpy()


def vocabulary_of(field: FeatureField, cells: pd.Series) -> pd.Index:
    """Distinct values seen at least `field.min_count` times, sorted, so that ids do not depend on row order."""
    values, _ = tokens(field, cells)
    counts = values.value_counts()
    return pd.Index(sorted(counts[counts >= field.min_count].index), dtype="str")


def encode(field: FeatureField, cells: pd.Series, vocabulary: pd.Index) -> Column:
    """A column of `len(cells)` rows; values outside the vocabulary become UNKNOWN, empty cells stay empty.

    Raises DataError when a numeric cell is not a number (infinities are refused, NaN means missing).
    """
    if field.kind == "numeric":
        return Column(field.name, _numbers(field, cells))
    values, rows = tokens(field, cells)
    found = vocabulary.get_indexer(pd.Index(values.astype(str), dtype=vocabulary.dtype))
    ids = np.where(found >= 0, found + FIRST, UNKNOWN).astype(np.int32)
    indptr = np.zeros(len(cells) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(cells)), out=indptr[1:])
    return Column(field.name, ids, indptr, len(vocabulary) + FIRST)


def _numbers(field: FeatureField, cells: pd.Series) -> np.ndarray:
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float32, na_value=np.nan)
    given = cells.notna().to_numpy() & (cells.astype("string").str.strip() != "").fillna(False).to_numpy(bool)
    bad = given & ~np.isfinite(numbers)
    bad &= ~cells.astype("string").str.strip().str.lower().isin(["nan", "na", "null"]).fillna(False).to_numpy(bool)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{cells.iloc[first]!r} is not a finite number",
            field=field.source,
            remedy="Give a number or leave it empty",
        )
    return numbers


def gather(table: FeatureTable, rows: IntArray) -> dict[str, Tensor]:
    """Features of some rows of a table: name -> ids [T, L] int64 (0 is padding) or numbers [T] float32."""
    return {name: _gather(column, np.asarray(rows)) for name, column in table.items()}


def _gather(column: Column, rows: IntArray) -> Tensor:
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
    fields: Sequence[FeatureField], vocab: Vocabulary, side: str, raw: Sequence[Mapping[str, object]]
) -> dict[str, Tensor]:
    """Features of newcomers as a caller gives them: T mappings of field name to value, missing ones allowed.

    Lists are accepted for multi-valued fields. Raises DataError for a field that the schema does not have.
    """
    known = {f.name for f in fields}
    for given in raw:
        for name in given:
            if name not in known:
                raise DataError(
                    "the model has no such feature",
                    field=name,
                    remedy=f"Known features: {', '.join(sorted(known)) or 'none'}",
                )
    table: dict[str, Column] = {}
    for field in fields:
        cells = pd.Series([_cell(field, given.get(field.name)) for given in raw], dtype="object")
        index = pd.Index([], dtype="str") if field.kind == "numeric" else vocab.values[f"{side}.{field.name}"]
        table[field.name] = encode(field, cells, index)
    return gather(table, np.arange(len(raw)))


def _cell(field: FeatureField, value: object) -> object:
    if isinstance(value, list | tuple):
        return (" " if field.kind == "text" else field.separator).join(str(v) for v in value)
    return None if value is None else (value if field.kind == "numeric" else str(value))
