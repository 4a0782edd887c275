"""Reading Parquet a batch of rows at a time. A row's line is its number, counted from 1."""

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
from recsys_meta.data.readers.raw_tables import ReadChunks, RowChunk

_BYTES_PER_ROW = 32


def read_parquet(path: Path, columns: Sequence[str], list_separators: Mapping[str, str] | None = None) -> ReadChunks:
    """A reader of some columns of a Parquet file; lists of text are joined by the column's text in `join`;
    joined by LIST they are what `list_cell` makes.

    Text and whole numbers become text, other numbers stay, times become whole seconds. The reader raises
    DataError for a damaged file, a missing column or a type that cannot hold a cell.
    """

    def read(block: int) -> Iterator[RowChunk]:
        with _open_parquet(path) as file:
            _check_columns(path, file.schema_arrow, columns)
            yield from _read_batches(path, file, columns, list_separators or {}, max(1, block // _BYTES_PER_ROW))

    return read


def read_column_names(path: Path) -> tuple[str, ...]:
    """The column names of a Parquet file."""
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
    path: Path, file: pq.ParquetFile, columns: Sequence[str], join: Mapping[str, str], rows: int
) -> Iterator[RowChunk]:
    seen, total = 0, max(file.metadata.num_rows, 1)
    for batch in file.iter_batches(rows, columns=list(columns), use_threads=False):
        cells = {
            c: _to_text_or_number(path, c, batch.column(batch.schema.get_field_index(c)), join.get(c, "|"))
            for c in columns
        }
        frame = pd.DataFrame({c: v.to_pandas() for c, v in cells.items()})
        yield RowChunk(
            str(path), frame, np.arange(seen + 1, seen + 1 + len(frame)), fraction=(seen + len(frame)) / total
        )
        seen += len(frame)


def _check_columns(path: Path, schema: pa.Schema, columns: Sequence[str]) -> None:
    for column in columns:
        if schema.names.count(column) != 1:
            problem = "the column is missing" if column not in schema.names else "two columns have this name"
            listed = ", ".join(schema.names[:40])
            raise DataError(problem, file=path, field=column, remedy=f"The file has: {listed}")


def _to_text_or_number(path: Path, column: str, cells: pa.Array, lists: str) -> pa.Array:
    """Cells as text or as numbers, missing ones as empty text or NaN."""
    kind = cells.type
    if pa.types.is_dictionary(kind):
        cells = cells.dictionary_decode()
        kind = cells.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        cells = pc.binary_join(cells.cast(pa.list_(pa.string())), lists)
        if lists == LIST_MARK:  # before the first value too: what it is shows where there is but one
            cells = pc.binary_join_element_wise(LIST_MARK, cells, "")
        kind = cells.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _seconds(cells)
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


def _seconds(cells: pa.Array) -> pa.Array:
    """Whole seconds as text, so that seconds cannot be mistaken for another unit."""
    stamp = cells if pa.types.is_timestamp(cells.type) else cells.cast(pa.timestamp("s"))
    per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[stamp.type.unit]
    ticks = stamp.cast(pa.int64())
    whole = np.floor_divide(np.asarray(ticks.fill_null(0)), per)
    text = pa.array(whole.astype(np.int64)).cast(pa.string())
    return pc.if_else(ticks.is_valid(), text, "")
