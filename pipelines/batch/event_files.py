"""Events told in files: CSV, JSON or Parquet with item and perhaps entity, label, time and the fields of a context."""

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

BLOCK = 100_000
"""Rows read at once."""

CONTEXT = "context"

LINE = "recsys_meta_line"

AS_TEXT: dict[str, Any] = {"dtype": "str", "keep_default_na": False, "na_values": [""]}
"""How pandas reads CSV: as text, so that a category 7 does not become 7.0 where another is missing."""


def read_events(path: Path, fields: ContextFields | None = None) -> list[Interaction]:
    """The interactions of one newcomer from a file, with the model's fields of context that are among its columns.
    Raises DataError naming file, line and field."""
    return interactions_of(path, _frame(path), fields)


def count_rows(path: Path) -> int:
    """About how many events a file has: exactly for Parquet, lines for texts. Raises DataError where there is none."""
    if not path.is_file():
        raise DataError("no such file", file=path)
    if path.suffix == ".parquet":
        try:
            return int(pq.ParquetFile(path).metadata.num_rows)
        except (OSError, pa.ArrowInvalid) as error:
            raise _unreadable(path, error) from None
    with path.open("rb") as file:
        return max(0, sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b"")) - 1)


def event_tables(path: Path, wanted: Collection[str]) -> Iterator[pa.Table]:
    """A table of events in parts of about `BLOCK` rows: its columns that are wanted, and `LINE`. Objects of a column
    `context` become columns of their own, cells of CSV text. Raises DataError naming file and line."""
    try:
        match path.suffix:
            case ".parquet":
                yield from _of_parquet(path, wanted)
            case ".json" | ".jsonl":
                yield _of_json(_frame(path), wanted)
            case _:
                yield from _of_text(path, wanted)
    except (ValueError, OSError, pa.ArrowInvalid) as error:
        raise _unreadable(path, error) from None


def _of_parquet(path: Path, wanted: Collection[str]) -> Iterator[pa.Table]:
    file = pq.ParquetFile(path)
    _needs_item(path, file.schema_arrow.names)
    _check_ids(path, file.schema_arrow)
    columns = [n for n in file.schema_arrow.names if n in wanted or n == CONTEXT]
    start = 0
    for batch in file.iter_batches(BLOCK, columns=columns):
        table = _plain(_opened(pa.Table.from_batches([batch])))
        yield _lined(table.select([n for n in table.column_names if n in wanted]), start)
        start += len(batch)


def _of_text(path: Path, wanted: Collection[str]) -> Iterator[pa.Table]:
    with pd.read_csv(path, chunksize=BLOCK, **AS_TEXT) as reader:
        for chunk in reader:
            columns = [str(n) for n in _checked(path, chunk).columns if n in wanted]
            cells = [pa.array(chunk[n].astype(object), pa.string(), from_pandas=True) for n in columns]
            yield _lined(pa.table(dict(zip(columns, cells, strict=True))), int(chunk.index[0]) if len(chunk) else 0)


def _of_json(frame: pd.DataFrame, wanted: Collection[str]) -> pa.Table:
    """JSON is read whole."""
    columns = {str(n): _cells(frame[n]) for n in frame.columns if n in wanted}
    return _lined(pa.table(columns), 0)


def _cells(cells: pd.Series) -> pa.Array:
    try:
        return pa.array(cells, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # of several types
        return pa.array([None if _missing(v) else _text(v) for v in cells], pa.string())


def _text(value: object) -> str:
    return list_cell(value) if isinstance(value, list) else str(value)


def _lined(table: pa.Table, start: int) -> pa.Table:
    return table.append_column(LINE, pa.array(np.arange(start, start + len(table))))


def _opened(table: pa.Table) -> pa.Table:
    """With the fields of a column `context` of objects as columns of their own."""
    if CONTEXT not in table.column_names or not pa.types.is_struct(table.schema.field(CONTEXT).type):
        return table
    context, rest = table[CONTEXT].combine_chunks(), table.drop_columns([CONTEXT])
    for field in context.type:
        if field.name not in rest.column_names:
            rest = rest.append_column(field.name, pc.struct_field(context, field.name))
    return rest


def _frame(path: Path) -> pd.DataFrame:
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
                frame = pd.read_csv(path, **AS_TEXT)
    except (ValueError, OSError, pa.ArrowInvalid) as error:
        raise _unreadable(path, error) from None
    if path.suffix == ".parquet":
        frame = frame.reset_index(drop=True)
    return _checked(path, _flat(frame))


def _plain(table: pa.Table) -> pa.Table:
    """With values where a column holds codes of them: each part has codes of its own."""
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table[field.name].cast(field.type.value_type))
    return table


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot be read ({type(error).__name__})", file=path, remedy="Give CSV, JSON or Parquet")


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Objects of a column `context` as columns of their own."""
    if "context" not in frame.columns or not frame["context"].map(lambda c: isinstance(c, dict)).any():
        return frame
    told = pd.DataFrame([c if isinstance(c, dict) else {} for c in frame.pop("context")], dtype=object)
    return frame.join(told[[c for c in told.columns if c not in frame.columns]])


def _checked(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    if not isinstance(frame.index, pd.RangeIndex):
        # pandas takes surplus fields for row labels and shifts the others: another item would be met in silence
        raise DataError("lines have more fields than the header", file=path, remedy="Quote ids that hold a comma")
    _needs_item(path, frame.columns)
    return frame


def _needs_item(path: Path, columns: Iterable[object]) -> None:
    if "item" not in (found := [str(c) for c in columns]):
        raise DataError("there is no such column", file=path, field="item", remedy=f"Found: {', '.join(found)}")


def _check_ids(path: Path, schema: pa.Schema) -> None:
    """Raise DataError where a column of names holds what is none: it would be read as what Python calls it."""
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if field.name in ("entity", "item") and (
            pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        ):
            remedy = "Write it as text or as whole numbers"
            raise DataError(f"a column of type {kind} holds no names", file=path, field=field.name, remedy=remedy)


def interactions_of(path: Path, frame: pd.DataFrame, fields: ContextFields | None) -> list[Interaction]:
    """The interactions of a table's rows. Raises DataError naming file, line and field."""
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
            {n: v for n, v in zip(names, row, strict=True) if not _missing(v)},
        )
        for item, label, at, row in zip(frame["item"].tolist(), labels, times, cells, strict=True)
    ]


def coerce_numeric(path: Path, frame: pd.DataFrame, fields: ContextFields | None) -> pd.DataFrame:
    """The table with numbers where numbers belong. Raises DataError for the first cell that is none, or no item."""
    every = {} if fields is None else fields.all_fields
    numeric = [name for name, of in every.items() if of.kind == "numeric" and name in frame.columns]
    if "time" in frame.columns:
        frame = frame.assign(time=_times(path, frame["time"]))
    for field in ("label", *numeric):
        if field in frame.columns:
            frame = frame.assign(**{field: _numbers(path, frame[field], field)})
    check_filled(path, frame, "item")
    return frame


def check_filled(path: Path, frame: pd.DataFrame, field: str) -> None:
    """Raise DataError for the first row of which a field is empty."""
    empty = frame[field].isna() | (frame[field].astype("str").str.strip() == "")
    if empty.any():
        raise DataError(f"the {field} is empty", file=path, line=line_of(path, empty), field=field)


def _missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _times(path: Path, cells: pd.Series) -> pd.Series:
    """Seconds since 1970 UTC; NaN where a cell is empty. Raises DataError for the first cell that is no time."""
    seconds, empty = exact_seconds_column(cells)
    bad = ~empty & ~((seconds >= 0) & (seconds < LATEST + 1))
    if bad.any():
        worst, early = cells.iloc[int(bad.argmax())], bool(seconds[bad.argmax()] < 0)
        what = f"{str(worst)!r} is {'a time before 1970' if early else 'not a time'}: {EXPECTED}"
        raise DataError(what, file=path, line=line_of(path, pd.Series(bad, cells.index)), field="time")
    return pd.Series(seconds, cells.index)


def _numbers(path: Path, cells: pd.Series, field: str) -> pd.Series:
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
    """The line of the first bad row, where the header is the first; in Parquet its number, from 1."""
    return line_at(path, bad.index[int(bad.to_numpy().argmax())])


def line_at(path: Path, index: int) -> int:
    """The line of a row that the index of a table counts from 0."""
    return int(index) + (1 if path.suffix == ".parquet" else 2)
