"""Partitions of a table of events: files that hold entities whole, so that memory does not grow with the table.

A file is a stream of Arrow batches: it has no directory that would grow with it, and a row is written once. Where more
files are needed than may be open, they are partitioned again by further digits of the same hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pipelines.batch.event_files import LINE_COLUMN
from recsys_meta.core.types import IntArray

PARTITION_ROWS = 250_000
"""Rows of a file, about: what is held at once."""

MAX_OPEN_FILES = 64
"""Files that are open at once."""

MAX_DEPTH = 4
"""Times that a file is partitioned again, at most; what is too large then belongs to few entities."""


def partition(
    tables: Iterable[pa.Table], rows: int, folder: Path, progress: Callable[[int], None] | None = None
) -> dict[str, int]:
    """Write `rows` rows, about, to files in a folder, those of an entity to the same; return the rows of each file.

    The file of an entity depends on its name and on `rows` only.
    """
    return dict(sorted(_partition(tables, rows, folder, "", 0, progress).items()))


def read_partition(file: Path) -> pd.DataFrame:
    """Read the rows of a file, their index being the lines of the table."""
    with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as stream:
        frame: pd.DataFrame = stream.read_all().to_pandas(types_mapper=pd.ArrowDtype)
    return frame.set_index(LINE_COLUMN)


def _partition(
    tables: Iterable[pa.Table], rows: int, folder: Path, above: str, depth: int, progress: Callable[[int], None] | None
) -> dict[str, int]:
    count = max(1, min(MAX_OPEN_FILES, -(-rows // PARTITION_ROWS)))
    sizes = _write(tables, count, depth, folder, above, progress)
    for name, size in list(sizes.items()):
        if size > 2 * PARTITION_ROWS and size < rows and depth < MAX_DEPTH:
            file = folder / name
            del sizes[name]
            sizes |= _partition(_batches(file), size, folder, f"{file.stem}-", depth + 1, None)
            file.unlink()
    return sizes


def _write(
    tables: Iterable[pa.Table], count: int, depth: int, folder: Path, above: str, progress: Callable[[int], None] | None
) -> dict[str, int]:
    """Write tables to `count` files, of which those without rows are not made; return the rows of each."""
    writers: dict[int, pa.RecordBatchStreamWriter] = {}
    sizes: dict[int, int] = {}
    with ExitStack() as stack:
        for table in _concatenate(tables):
            number = _file_numbers(table["entity"], count, depth)
            rows, ends = table.take(np.argsort(number, kind="stable")), np.cumsum(np.bincount(number, minlength=count))
            for i, end in enumerate(ends.tolist()):
                start = int(ends[i - 1]) if i else 0
                if start == end:
                    continue
                if i not in writers:
                    sink = stack.enter_context(pa.OSFile(str(folder / _file_name(above, i)), "wb"))
                    writers[i] = stack.enter_context(pa.ipc.new_stream(sink, table.schema))
                writers[i].write_table(rows.slice(start, end - start))
                sizes[i] = sizes.get(i, 0) + end - start
            if progress is not None:
                progress(len(table))
    return {_file_name(above, i): size for i, size in sizes.items()}


def _file_name(above: str, i: int) -> str:
    return f"{above}{i:02d}.arrow"


def _concatenate(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Concatenate tables until there are `PARTITION_ROWS` rows: a file gets few large batches, not many small ones."""
    pending: list[pa.Table] = []
    for table in tables:
        pending.append(table)
        if sum(map(len, pending)) >= PARTITION_ROWS:
            yield pa.concat_tables(pending).combine_chunks()
            pending = []
    if pending:
        yield pa.concat_tables(pending).combine_chunks()


def _file_numbers(entity: pa.ChunkedArray, count: int, depth: int) -> IntArray:
    """Compute which of `count` files each row belongs to, [n]."""
    names = pa.chunked_array(entity).combine_chunks().dictionary_encode()
    hashes = pd.util.hash_array(np.array([str(name) for name in names.dictionary.to_pylist()], object))
    number: IntArray = (hashes // np.uint64(MAX_OPEN_FILES**depth) % np.uint64(count)).astype(np.int64)
    codes: IntArray = names.indices.to_numpy()
    return number[codes]


def _batches(file: Path) -> Iterator[pa.Table]:
    with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as stream:
        for batch in stream:
            yield pa.Table.from_batches([batch])
