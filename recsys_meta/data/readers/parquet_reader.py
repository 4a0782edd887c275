"""Reading Parquet a batch of rows at a time. The line of a row is its number, counted from 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.lib import ArrowException

from recsys_meta.core.errors import DataError
from recsys_meta.core.feature_encoding import LIST_MARK
from recsys_meta.core.time_parsing import UNITS
from recsys_meta.data.readers.raw_tables import ReadChunks, RowChunk

_BYTES_PER_ROW = 32
_TICKS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def read_parquet(path: Path, columns: Sequence[str], list_separators: Mapping[str, str] | None = None) -> ReadChunks:
    """Return a reader of some columns of a Parquet file.

    Text and whole numbers become text, other numbers stay, times become whole seconds. The values of a list are joined
    by the separator of its column in `list_separators` ("|" by default); with LIST_MARK the result is the same as that
    of `list_cell`. The reader raises DataError for a damaged file, a missing column or a type that cannot be read.
    """
    separators = list_separators or {}

    def read(block: int) -> Iterator[RowChunk]:
        with _open_parquet(path) as file:
            _check_columns(path, file.schema_arrow, columns)
            yield from _read_batches(path, file, columns, separators, max(1, block // _BYTES_PER_ROW))

    return read


def read_column_names(path: Path) -> tuple[str, ...]:
    """Read the column names of a Parquet file. Raises DataError as `read_parquet` does."""
    with _open_parquet(path) as file:
        return tuple(file.schema_arrow.names)


@contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise DataError("no such file", file=path, remedy="Check the path") from None
    except (ArrowException, OSError) as error:
        problem = f"cannot be read as Parquet: {str(error).splitlines()[0]}"
        raise DataError(problem, file=path, remedy="Is it damaged, or of another format?") from None


def _read_batches(
    path: Path, file: pq.ParquetFile, columns: Sequence[str], separators: Mapping[str, str], rows: int
) -> Iterator[RowChunk]:
    start, total = 0, max(file.metadata.num_rows, 1)
    for batch in file.iter_batches(rows, columns=list(columns), use_threads=False):
        cells = {c: _to_text_or_number(path, c, batch.column(c), separators.get(c, "|")) for c in columns}
        frame = pd.DataFrame({c: v.to_pandas() for c, v in cells.items()})
        stop = start + len(frame)
        yield RowChunk(str(path), frame, np.arange(start + 1, stop + 1), fraction=stop / total)
        start = stop


def _check_columns(path: Path, schema: pa.Schema, columns: Sequence[str]) -> None:
    for column in columns:
        if schema.names.count(column) != 1:
            problem = "the column is missing" if column not in schema.names else "two columns have this name"
            names = ", ".join(schema.names[:40])
            raise DataError(problem, file=path, field=column, remedy=f"The file has: {names}")


def _to_text_or_number(path: Path, column: str, cells: pa.Array, separator: str) -> pa.Array:
    """Convert cells to text or to numbers; missing ones become empty text or NaN."""
    kind = cells.type
    if pa.types.is_dictionary(kind):
        cells = cells.dictionary_decode()
        kind = cells.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        cells = _join_lists(cells, separator)
        kind = cells.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _seconds_text(cells)
    if pa.types.is_boolean(kind):
        return cells.cast(pa.int8()).cast(pa.string()).fill_null("")
    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return cells.cast(pa.string()).fill_null("")
    if pa.types.is_null(kind):
        return pa.array([""] * len(cells), pa.string())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return cells.cast(pa.float64())
    problem = f"its type {kind} cannot be read"
    raise DataError(problem, file=path, field=column, remedy="Store text, numbers, lists of text or timestamps")


def _join_lists(cells: pa.Array, separator: str) -> pa.Array:
    """Join the values of each list [n] to one text; missing values of a list are left out, a missing list stays so."""
    # binary_join makes the whole text null for one null value, so the nulls are taken out of the lists before it.
    values = cells.flatten()
    present = pc.invert(values.is_null(nan_is_null=True))
    row = pc.list_parent_indices(cells).filter(present).to_numpy(zero_copy_only=False)
    counts = np.bincount(row, minlength=len(cells))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int64())
    lists = pa.LargeListArray.from_arrays(offsets, values.filter(present).cast(pa.string()))
    texts = pc.binary_join(lists, separator)
    if separator == LIST_MARK:
        # The mark stands before the first value too, so that a list of one value is recognized as a list.
        texts = pc.binary_join_element_wise(LIST_MARK, texts, "")
    return pc.if_else(cells.is_valid(), texts, None)


def _seconds_text(cells: pa.Array) -> pa.Array:
    """Convert timestamps or dates to text that `seconds_column` reads as the same second.

    That is the number of seconds, except from the year 5138 on: a number of that size is read as milliseconds, so
    those times are written as ISO 8601.
    """
    stamps = cells if pa.types.is_timestamp(cells.type) else cells.cast(pa.timestamp("s"))
    ticks = stamps.cast(pa.int64())
    seconds = np.floor_divide(np.asarray(ticks.fill_null(0)), _TICKS_PER_SECOND[stamps.type.unit]).astype(np.int64)
    text = pa.array(seconds).cast(pa.string())
    late = seconds >= UNITS[0]
    if late.any():
        iso = np.datetime_as_string(np.where(late, seconds, 0).astype("datetime64[s]"), timezone="UTC")
        text = pc.if_else(pa.array(late), pa.array(iso.astype(object), pa.string()), text)
    return pc.if_else(ticks.is_valid(), text, "")
