"""Features: raw cells to columns of padded ids, and columns to the tensors of a batch.

The same `values_of` serves the preparation of a data set and a single newcomer at serving time, so that a value
can never be read in two ways.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recsys_meta.core.dataset import FeatureColumn, FeatureTable, Vocabulary
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import FeatureField
from recsys_meta.core.types import FIRST, PAD, UNKNOWN, IntArray

LIST_MARK = "\ufdd0"
"""Before each value of a list that is written as one cell. No text holds it: Unicode keeps it out of what is
interchanged. Joined by the separator of its field, a value that holds the separator would be cut in two."""

_WORD_PATTERN = re.compile(r"\w+")
_MAX_FLOAT32 = float(np.finfo(np.float32).max)


def split_values(field: FeatureField, cell: str) -> list[str]:
    """Values of one cell, of text or made by `list_cell`: distinct, in order of appearance, at most
    `field.max_values`; none of an empty cell."""
    if field.kind == "text":
        parts = _WORD_PATTERN.findall(cell.lower())
    else:
        separator = LIST_MARK if LIST_MARK in cell else field.separator
        parts = cell.split(separator) if field.kind == "multi" else [cell]
    stripped = dict.fromkeys(part.strip() for part in parts)
    stripped.pop("", None)
    return list(stripped)[: field.max_values]


def list_cell(values: Iterable[object]) -> str:
    """A list as one cell of a multi-valued field: each of its values stays one, whatever it holds. Missing ones are
    left out."""
    return LIST_MARK + LIST_MARK.join(str(v) for v in values if not _is_missing(v))


def explode_values(field: FeatureField, cells: pd.Series) -> tuple[pd.Series, IntArray]:
    """Values of each cell in long form: (values [V], row of each value [V]); an empty cell has none."""
    each = [split_values(field, cell) for cell in cells.astype("string").fillna("")]
    rows = np.repeat(np.arange(len(each)), [len(values) for values in each])
    return pd.Series([value for values in each for value in values], dtype="str"), rows


def build_vocabulary(field: FeatureField, cells: pd.Series) -> pd.Index:
    """Distinct values seen at least `field.min_count` times, sorted, so that ids do not depend on row order."""
    values, _ = explode_values(field, cells)
    counts = values.value_counts()
    index: pd.Index = pd.Index(sorted(counts[counts >= field.min_count].index), dtype="str")
    return index


def encode_column(field: FeatureField, cells: pd.Series, vocabulary: pd.Index) -> FeatureColumn:
    """A column of `len(cells)` rows; values outside the vocabulary become UNKNOWN, empty cells stay empty.

    Raises DataError when a numeric cell is not a number (infinities are refused, NaN means missing).
    """
    if field.kind == "numeric":
        return FeatureColumn(field.name, _parse_numbers(field, cells))
    values, rows = explode_values(field, cells)
    found = vocabulary.get_indexer(pd.Index(values, dtype=vocabulary.dtype))
    ids = np.where(found >= 0, found + FIRST, UNKNOWN).astype(np.int32)
    indptr = np.zeros(len(cells) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(cells)), out=indptr[1:])
    return FeatureColumn(field.name, ids, indptr, len(vocabulary) + FIRST)


def _parse_numbers(field: FeatureField, cells: pd.Series) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
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


def lookup_rows(table: FeatureTable, rows: IntArray) -> dict[str, Tensor]:
    """Features of some rows of a table: name -> ids [T, L] int64 (0 is padding) or numbers [T] float32."""
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
    """Features of newcomers as a caller gives them: T mappings of field name to value, missing ones allowed.

    Lists are accepted for multi-valued fields. Raises DataError for a field that the schema does not have, or a
    number that is none. On the hot path of serving, so it stays clear of pandas frames.
    """
    known = {f.name for f in fields}
    for given in rows:
        for name in given:
            if name not in known:
                raise DataError(
                    "the model has no such feature",
                    field=name,
                    remedy=f"Known features: {', '.join(sorted(known)) or 'none'}",
                )
    made: dict[str, Tensor] = {}
    for field in fields:
        cells = [given.get(field.name) for given in rows]
        if field.kind == "numeric":
            made[field.name] = torch.tensor([_parse_number(field, cell) for cell in cells], dtype=torch.float32)
            continue
        index = vocab.values[f"{table}.{field.name}"]
        ids = [[_padded_id(index, value) for value in split_values(field, _cell_text(field, cell))] for cell in cells]
        width = max([1, *map(len, ids)])
        padded = [row + [PAD] * (width - len(row)) for row in ids]
        made[field.name] = torch.tensor(padded, dtype=torch.int64).reshape(len(rows), width)
    return made


def unseen_features(
    fields: Sequence[FeatureField], vocab: Vocabulary, table: str, features: Mapping[str, object]
) -> list[str]:
    """Features of which a value is given that the data never had, by name: it has no effect. Of words of a text, and of
    numbers, that is nothing to tell."""
    told = [f for f in fields if f.kind in ("categorical", "multi") and f.name in features]
    return sorted(
        field.name
        for field in told
        for index in [vocab.values[f"{table}.{field.name}"]]
        if any(
            _padded_id(index, value) == UNKNOWN
            for value in split_values(field, _cell_text(field, features[field.name]))
        )
    )


def _cell_text(field: FeatureField, value: object) -> str:
    if isinstance(value, list | tuple | np.ndarray):  # a cell of an Arrow list is an array
        if field.kind == "multi":
            return list_cell(value)
        return (" " if field.kind == "text" else field.separator).join(str(v) for v in value if not _is_missing(v))
    return "" if _is_missing(value) else str(value)


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _padded_id(vocabulary: pd.Index, value: str) -> int:
    try:
        return int(vocabulary.get_loc(value)) + FIRST  # type: ignore[arg-type]  # an int, as values are distinct
    except KeyError:
        return UNKNOWN


def _parse_number(field: FeatureField, value: object) -> float:
    if _is_missing(value):
        return math.nan
    if isinstance(value, int | float) and abs(value) <= _MAX_FLOAT32:
        return float(value)
    return float(_parse_numbers(field, pd.Series([_cell_text(field, value)], dtype="object"))[0])
