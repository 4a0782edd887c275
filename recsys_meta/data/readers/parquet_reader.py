"""Reading Parquet and Arrow files (Feather) a batch of rows at a time. The line of a row is its number, from 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.lib import ArrowException

from recsys_meta.core.cells import LIST_MARK, text_cells
from recsys_meta.core.errors import DataError
from recsys_meta.data.readers.raw_tables import ReadChunks, RowChunk

PARQUET_MAGIC, ARROW_MAGIC = b"PAR1", b"ARROW1"
"""First bytes of a Parquet file, and of an Arrow file."""

_BYTES_PER_ROW = 32


def read_parquet(path: Path, columns: Sequence[str], list_separators: Mapping[str, str] | None = None) -> ReadChunks:
    """Return a reader of some columns of a Parquet file.

    Cells are as `read_cells` has them. The values of a list are joined by the separator of its column in
    `list_separators`, and refused elsewhere; with LIST_MARK the result is the same as that of `list_cell`. The reader
    raises DataError for a damaged file, a missing column or a type that cannot be read.
    """
    separators = list_separators or {}

    def read(block: int) -> Iterator[RowChunk]:
        with _open_file(path) as file:
            _check_columns(path, file.schema, columns)
            start, rows = 0, max(1, block // _BYTES_PER_ROW)
            top = list(dict.fromkeys(c if c in file.schema.names else c.partition(".")[0] for c in columns))
            for batch in _read_batches(path, file.batches(rows, top)):
                cells = {c: read_cells(path, c, _column(batch, c), separators.get(c)) for c in columns}
                stop = start + len(batch)
                fraction = stop / max(file.rows, 1)
                yield RowChunk(str(path), pd.DataFrame(cells), np.arange(start + 1, stop + 1), fraction=fraction)
                start = stop

    return read


def read_column_names(path: Path) -> tuple[str, ...]:
    """Read the column names of a file, those of the fields of a struct as "a.b". Raises DataError as `read_parquet`."""
    with _open_file(path) as file:
        structs = [f for f in file.schema if pa.types.is_struct(f.type)]
        return (*file.schema.names, *(f"{f.name}.{inner.name}" for f in structs for inner in f.type))


def count_parquet_rows(path: Path) -> int:
    """Count the rows of a file. Raises DataError as `read_parquet`."""
    with _open_file(path) as file:
        return file.rows


@dataclass(frozen=True)
class _OpenFile:
    """An open file: its schema, its number of rows, and the batches of some columns, of so many rows at most."""

    schema: pa.Schema
    rows: int
    batches: Callable[[int, list[str]], Iterator[pa.RecordBatch]]


@contextmanager
def _open_file(path: Path) -> Iterator[_OpenFile]:
    with ExitStack() as stack:
        try:
            with path.open("rb") as file:
                is_arrow = file.read(6) == ARROW_MAGIC
            if is_arrow:
                reader = stack.enter_context(pa.ipc.open_file(stack.enter_context(pa.OSFile(str(path)))))
                numbers = range(reader.num_record_batches)
                opened = _OpenFile(
                    reader.schema,
                    sum(reader.get_batch(i).num_rows for i in numbers),
                    lambda rows, names: _slices((reader.get_batch(i).select(names) for i in numbers), rows),
                )
            else:
                parquet = stack.enter_context(pq.ParquetFile(path))
                opened = _OpenFile(
                    parquet.schema_arrow,
                    parquet.metadata.num_rows,
                    lambda rows, names: parquet.iter_batches(rows, columns=names, use_threads=False),
                )
        except FileNotFoundError:
            raise DataError("no such file", file=path, remedy="Check the path") from None
        except (ArrowException, OSError) as error:
            raise _read_error(path, error) from None
        yield opened


def _read_batches(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    while True:
        try:
            batch = next(batches, None)
        except (ArrowException, OSError) as error:
            raise _read_error(path, error) from None
        if batch is None:
            return
        yield batch


def _slices(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, len(batch), rows):
            yield batch.slice(start, rows)


def _read_error(path: Path, error: Exception) -> DataError:
    problem = f"cannot be read as Parquet: {str(error).splitlines()[0]}"
    return DataError(problem, file=path, remedy="Is it damaged, or of another format?")


def _column(batch: pa.RecordBatch, column: str) -> pa.Array:
    if column in batch.schema.names:
        return batch.column(column)
    head, _, inner = column.partition(".")
    return pc.struct_field(batch.column(head), inner)


def _check_columns(path: Path, schema: pa.Schema, columns: Sequence[str]) -> None:
    for column in columns:
        head, _, inner = column.partition(".")
        if inner and head in schema.names and inner in _struct_fields(schema.field(head).type):
            continue
        if schema.names.count(column) != 1:
            problem = "the column is missing" if column not in schema.names else "two columns have this name"
            names = ", ".join(schema.names[:40])
            raise DataError(problem, file=path, field=column, remedy=f"The file has: {names}")


def _struct_fields(kind: pa.DataType) -> list[str]:
    return [f.name for f in kind] if pa.types.is_struct(kind) else []


def read_cells(path: Path, column: str, cells: pa.Array, separator: str | None) -> pd.Series:
    """Convert an Arrow array [n] to cells [n] that `recsys_meta.core.cells` reads.

    Text, decimals, dates and lists become text (dates ISO 8601, lists joined by the separator), whole numbers stay
    Arrow's, booleans and other numbers pandas', timestamps become datetimes in microseconds. Raises DataError for
    another type, and for lists without a separator.
    """
    cells = _decode(cells)
    kind = cells.type
    if _is_list(kind) and separator is not None:
        return _text(_join_lists(path, column, cells, separator))
    if pa.types.is_timestamp(kind):
        stamps: pd.Series = cells.cast(pa.timestamp("us", kind.tz), safe=False).to_pandas()
        return stamps
    if pa.types.is_integer(kind):
        return pd.Series(pd.arrays.ArrowExtensionArray(cells))
    if pa.types.is_floating(kind):
        numbers: pd.Series = (cells.cast(pa.float32()) if pa.types.is_float16(kind) else cells).to_pandas()
        return numbers
    if pa.types.is_date(kind):
        return _text(cells.cast(pa.date32()).cast(pa.string()))
    if pa.types.is_decimal(kind):
        whole = pc.replace_substring_regex(cells.cast(pa.string()), r"\.0*$", "")
        return _text(pc.replace_substring_regex(whole, r"(\.[0-9]*[1-9])0+$", r"\1"))
    if pa.types.is_boolean(kind):
        return pd.Series(pd.array(cells.to_pylist(), dtype="boolean"))
    if _is_text(kind):
        return _text(cells.cast(pa.string()))
    if pa.types.is_null(kind):
        return pd.Series([""] * len(cells), dtype="str")
    problem = f"its type {kind} cannot be read"
    raise DataError(problem, file=path, field=column, remedy="Store text, numbers, lists of text or timestamps")


def _decode(cells: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(cells.type):
        values = cells.dictionary
        if pa.types.is_string_view(values.type):  # cannot be taken from
            values = values.cast(pa.large_string())
        cells = pa.DictionaryArray.from_arrays(cells.indices, values).dictionary_decode()
    if pa.types.is_string_view(cells.type):
        cells = cells.cast(pa.large_string())
    if isinstance(cells, pa.ExtensionArray):
        cells = cells.storage
    return cells


def _text(cells: pa.Array) -> pd.Series:
    return pd.Series(cells.fill_null("").to_pandas(), dtype="str")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def _join_lists(path: Path, column: str, cells: pa.Array, separator: str) -> pa.Array:
    """Join the values of each list [n] to one text; missing values of a list are left out, a missing list stays so."""
    cells = cells.cast(pa.large_list(cells.type.value_type))
    # binary_join makes the whole text null for one null value, so the nulls are taken out of the lists before it.
    values = _decode(cells.flatten())
    if _is_list(values.type):
        values = _join_lists(path, column, values, separator)
    present = pc.invert(values.is_null(nan_is_null=True))
    row = pc.list_parent_indices(cells).filter(present).to_numpy(zero_copy_only=False)
    counts = np.bincount(row, minlength=len(cells))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int64())
    texts_of_values = text_cells(read_cells(path, column, values.filter(present), separator))
    lists = pa.LargeListArray.from_arrays(offsets, pa.array(texts_of_values, pa.string(), from_pandas=True))
    texts = pc.binary_join(lists, separator)
    if separator == LIST_MARK:
        # The mark stands before the first value too, so that a list of one value is recognized as a list.
        texts = pc.binary_join_element_wise(LIST_MARK, texts, "")
    return pc.if_else(cells.is_valid(), texts, None)
