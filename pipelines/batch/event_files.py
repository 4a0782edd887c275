"""Event files: CSV, JSON or Parquet with item and perhaps entity, label, time and the fields of a context."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_meta.core.errors import DataError
from recsys_meta.core.feature_encoding import list_cell
from recsys_meta.core.time_parsing import EXPECTED, LATEST
from recsys_meta.data.readers.time_columns import exact_seconds_column
from recsys_meta.inference.requests.context_fields import MAX_DEGREES, NO_CONTEXT, ContextFields
from recsys_meta.inference.requests.entity import Interaction

BLOCK_ROWS = 100_000
"""Rows read at once."""

CONTEXT_COLUMN = "context"
"""The column that may hold an object of context fields."""

LINE_COLUMN = "recsys_meta_line"
"""The column that counts the rows of a file from 0, for error messages."""

CSV_OPTIONS: dict[str, Any] = {"dtype": "str", "keep_default_na": False, "na_values": [""]}
"""Options to read CSV with: as text, so that a category 7 does not become 7.0 where another is missing."""


def read_events(path: Path, fields: ContextFields | None = None) -> list[Interaction]:
    """Read the interactions of one entity from a file, with the model's context fields that are among its columns.
    Raises DataError naming file, line and field."""
    return interactions_of(path, _read_frame(path), fields)


def count_rows(path: Path) -> int:
    """Count the events of a file, about: exactly for Parquet, lines for texts. Raises DataError where there is none."""
    if not path.is_file():
        raise DataError("no such file", file=path)
    if path.suffix == ".parquet":
        try:
            return int(pq.ParquetFile(path).metadata.num_rows)
        except (OSError, pa.ArrowInvalid) as error:
            raise _read_error(path, error) from None
    with path.open("rb") as file:
        return max(0, sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b"")) - 1)


def event_tables(path: Path, columns: Collection[str]) -> Iterator[pa.Table]:
    """Read a table of events in parts of about `BLOCK_ROWS` rows: those of `columns` that it has, and `LINE_COLUMN`.
    Objects of a column `context` become columns of their own, cells of CSV text. Raises DataError naming file and
    line."""
    try:
        match path.suffix:
            case ".parquet":
                yield from _parquet_tables(path, columns)
            case ".json" | ".jsonl":
                yield _json_table(_read_frame(path), columns)
            case _:
                yield from _csv_tables(path, columns)
    except (ValueError, OSError, pa.ArrowInvalid) as error:
        raise _read_error(path, error) from None


def _parquet_tables(path: Path, columns: Collection[str]) -> Iterator[pa.Table]:
    file = pq.ParquetFile(path)
    _check_item_column(path, file.schema_arrow.names)
    _check_ids(path, file.schema_arrow)
    present = [n for n in file.schema_arrow.names if n in columns or n == CONTEXT_COLUMN]
    start = 0
    for batch in file.iter_batches(BLOCK_ROWS, columns=present):
        table = _decode_dictionaries(_flatten_context(pa.Table.from_batches([batch])))
        yield _with_lines(table.select([n for n in table.column_names if n in columns]), start)
        start += len(batch)


def _csv_tables(path: Path, columns: Collection[str]) -> Iterator[pa.Table]:
    with pd.read_csv(path, chunksize=BLOCK_ROWS, **CSV_OPTIONS) as reader:
        for chunk in reader:
            names = [str(n) for n in _check_columns(path, chunk).columns if n in columns]
            cells = [pa.array(chunk[n].astype(object), pa.string(), from_pandas=True) for n in names]
            yield _with_lines(pa.table(dict(zip(names, cells, strict=True))), int(chunk.index[0]) if len(chunk) else 0)


def _json_table(frame: pd.DataFrame, columns: Collection[str]) -> pa.Table:
    """Convert the frame of a JSON file, which is read whole."""
    cells = {str(n): _to_arrow(frame[n]) for n in frame.columns if n in columns}
    return _with_lines(pa.table(cells), 0)


def _to_arrow(cells: pd.Series) -> pa.Array:
    try:
        return pa.array(cells, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # of several types
        return pa.array([None if _is_missing(v) else _to_text(v) for v in cells], pa.string())


def _to_text(value: object) -> str:
    return list_cell(value) if isinstance(value, list) else str(value)


def _with_lines(table: pa.Table, start: int) -> pa.Table:
    return table.append_column(LINE_COLUMN, pa.array(np.arange(start, start + len(table))))


def _flatten_context(table: pa.Table) -> pa.Table:
    """Turn the fields of a column `context` of objects into columns of their own."""
    if CONTEXT_COLUMN not in table.column_names or not pa.types.is_struct(table.schema.field(CONTEXT_COLUMN).type):
        return table
    context, rest = table[CONTEXT_COLUMN].combine_chunks(), table.drop_columns([CONTEXT_COLUMN])
    for field in context.type:
        if field.name not in rest.column_names:
            rest = rest.append_column(field.name, pc.struct_field(context, field.name))
    return rest


def _read_frame(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError("no such file", file=path)
    try:
        match path.suffix:
            case ".parquet":
                # Arrow's own types: an int stays one where others are missing.
                _check_ids(path, pq.read_schema(path))
                frame = pd.read_parquet(path, dtype_backend="pyarrow")
            case ".json":
                frame = pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
            case ".jsonl":
                frame = pd.read_json(path, lines=True, dtype=False)
            case _:
                frame = pd.read_csv(path, **CSV_OPTIONS)
    except (ValueError, OSError, pa.ArrowInvalid) as error:
        raise _read_error(path, error) from None
    if path.suffix == ".parquet":
        frame = frame.reset_index(drop=True)
    return _check_columns(path, _flatten_context_frame(frame))


def _decode_dictionaries(table: pa.Table) -> pa.Table:
    """Replace dictionary codes by their values: each part of a file has codes of its own."""
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table[field.name].cast(field.type.value_type))
    return table


def _read_error(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot be read ({type(error).__name__})", file=path, remedy="Give CSV, JSON or Parquet")


def _flatten_context_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn objects of a column `context` into columns of their own."""
    if "context" not in frame.columns or not frame["context"].map(lambda c: isinstance(c, dict)).any():
        return frame
    context = pd.DataFrame([c if isinstance(c, dict) else {} for c in frame.pop("context")], dtype=object)
    return frame.join(context[[c for c in context.columns if c not in frame.columns]])


def _check_columns(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    if not isinstance(frame.index, pd.RangeIndex):
        # pandas takes surplus fields for row labels and shifts the others: the wrong items would be read
        raise DataError("lines have more fields than the header", file=path, remedy="Quote ids that hold a comma")
    _check_item_column(path, frame.columns)
    return frame


def _check_item_column(path: Path, columns: Iterable[object]) -> None:
    names = [str(column) for column in columns]
    if "item" not in names:
        raise DataError("there is no such column", file=path, field="item", remedy=f"Found: {', '.join(names)}")


def _check_ids(path: Path, schema: pa.Schema) -> None:
    """Raise DataError where a column of names holds lists, objects or bytes, which would be read as their `repr`."""
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if field.name in ("entity", "item") and (
            pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        ):
            remedy = "Write it as text or as whole numbers"
            raise DataError(f"a column of type {kind} holds no names", file=path, field=field.name, remedy=remedy)


def interactions_of(path: Path, frame: pd.DataFrame, fields: ContextFields | None) -> list[Interaction]:
    """Convert the rows of a table to interactions. Raises DataError naming file, line and field."""
    frame = coerce_numeric(path, frame, fields)
    labels = frame["label"].tolist() if "label" in frame.columns else [None] * len(frame)
    times = frame["time"].tolist() if "time" in frame.columns else [None] * len(frame)
    names = [] if fields is None else [name for name in fields.names if name in frame.columns]
    cells = zip(*(frame[name].tolist() for name in names), strict=True) if names else iter([()] * len(frame))
    interaction = (fields or NO_CONTEXT).interaction
    return [
        interaction(
            str(item),
            None if pd.isna(label) else float(label),
            None if pd.isna(at) else float(at),
            {n: v for n, v in zip(names, row, strict=True) if not _is_missing(v)},
        )
        for item, label, at, row in zip(frame["item"].tolist(), labels, times, cells, strict=True)
    ]


def coerce_numeric(path: Path, frame: pd.DataFrame, fields: ContextFields | None) -> pd.DataFrame:
    """Convert the cells of numeric columns to numbers. Raises DataError for the first that is no number, or no item."""
    context_fields = {} if fields is None else fields.all_fields
    numeric = [name for name, f in context_fields.items() if f.kind == "numeric" and name in frame.columns]
    if "time" in frame.columns:
        frame = frame.assign(time=_parse_times(path, frame["time"]))
    for field in ("label", *numeric):
        if field in frame.columns:
            frame = frame.assign(**{field: _parse_numbers(path, frame[field], field)})
    check_filled(path, frame, "item")
    return frame


def check_filled(path: Path, frame: pd.DataFrame, field: str) -> None:
    """Raise DataError for the first row of which a field is empty."""
    empty = frame[field].isna() | (frame[field].astype("str").str.strip() == "")
    if empty.any():
        raise DataError(f"the {field} is empty", file=path, line=line_of(path, empty), field=field)


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _parse_times(path: Path, cells: pd.Series) -> pd.Series:
    """Parse times to seconds since 1970 UTC; NaN where a cell is empty.

    Raises DataError for the first cell that is no time.
    """
    seconds, empty = exact_seconds_column(cells)
    bad = ~empty & ~((seconds >= 0) & (seconds < LATEST + 1))
    if bad.any():
        worst, early = cells.iloc[int(bad.argmax())], bool(seconds[bad.argmax()] < 0)
        what = f"{str(worst)!r} is {'a time before 1970' if early else 'not a time'}: {EXPECTED}"
        raise DataError(what, file=path, line=line_of(path, pd.Series(bad, cells.index)), field="time")
    return pd.Series(seconds, cells.index)


def _parse_numbers(path: Path, cells: pd.Series, field: str) -> pd.Series:
    numbers, what = pd.to_numeric(cells, errors="coerce").astype("float64"), "not a number"
    bad = numbers.isna() & cells.notna()
    if not bad.any():
        bad, what = numbers.abs() == math.inf, "not a finite number"
    if not bad.any() and field in MAX_DEGREES:
        bad, what = numbers.abs() > MAX_DEGREES[field], f"no number of degrees up to {MAX_DEGREES[field]:g}"
    if bad.any():
        worst = cells.iloc[int(bad.to_numpy().argmax())]
        raise DataError(f"{worst!r} is {what}", file=path, line=line_of(path, bad), field=field)
    return numbers


def line_of(path: Path, bad: pd.Series) -> int:
    """Return the line of the first bad row, where the header is line 1; in Parquet the row's number, from 1."""
    return line_at(path, bad.index[int(bad.to_numpy().argmax())])


def line_at(path: Path, index: int) -> int:
    """Return the line of a row that the index of a table counts from 0."""
    return int(index) + (1 if path.suffix == ".parquet" else 2)
