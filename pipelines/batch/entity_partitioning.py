"""A table of events spread over files that hold entities whole, so that memory does not grow with the table.

A file is a stream of Arrow batches: it has no directory that would grow with it, and a row is written once. Where more
files are needed than may be open, they are spread again by further digits of the same hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pipelines.batch.event_files import LINE
from recsys_meta.core.types import IntArray

AT_ONCE = 250_000
"""Rows of a file, about: what is held at once."""

FAN = 64
"""Files that are open at once."""

DEEPEST = 4
"""How often files are spread again; what is too large then belongs to few entities."""


def partition(
    tables: Iterable[pa.Table], rows: int, folder: Path, progress: Callable[[int], None] | None = None
) -> dict[str, int]:
    """Write `rows` rows, about, to files in a folder, those of an entity to the same; answers the rows of each file.

    Which file an entity comes to depends on its name and on `rows` only.
    """
    return dict(sorted(_spread(tables, rows, folder, "", 0, progress).items()))


def read_partition(file: Path) -> pd.DataFrame:
    """The rows of a file, their index being the lines of the table."""
    with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as stream:
        frame: pd.DataFrame = stream.read_all().to_pandas(types_mapper=pd.ArrowDtype)
    return frame.set_index(LINE)


def _spread(
    tables: Iterable[pa.Table], rows: int, folder: Path, above: str, depth: int, progress: Callable[[int], None] | None
) -> dict[str, int]:
    count = max(1, min(FAN, -(-rows // AT_ONCE)))
    found = _write(tables, count, depth, folder, above, progress)
    for name, size in list(found.items()):
        if size > 2 * AT_ONCE and size < rows and depth < DEEPEST:
            file = folder / name
            del found[name]
            found |= _spread(_batches(file), size, folder, f"{file.stem}-", depth + 1, None)
            file.unlink()
    return found


def _write(
    tables: Iterable[pa.Table], count: int, depth: int, folder: Path, above: str, progress: Callable[[int], None] | None
) -> dict[str, int]:
    """The rows of each of `count` files, of which those without rows are not made."""
    writers: dict[int, pa.RecordBatchStreamWriter] = {}
    sizes: dict[int, int] = {}
    with ExitStack() as stack:
        for table in _gathered(tables):
            home = _digits(table["entity"], count, depth)
            order = np.argsort(home, kind="stable")
            sorted_, ends = table.take(order), np.cumsum(np.bincount(home, minlength=count))
            for i, end in enumerate(ends.tolist()):
                start = int(ends[i - 1]) if i else 0
                if start == end:
                    continue
                if i not in writers:
                    sink = stack.enter_context(pa.OSFile(str(folder / _name(above, i)), "wb"))
                    writers[i] = stack.enter_context(pa.ipc.new_stream(sink, table.schema))
                writers[i].write_table(sorted_.slice(start, end - start))
                sizes[i] = sizes.get(i, 0) + end - start
            if progress is not None:
                progress(len(table))
    return {_name(above, i): size for i, size in sizes.items()}


def _name(above: str, i: int) -> str:
    return f"{above}{i:02d}.arrow"


def _gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables put together until there are `AT_ONCE` rows: a file gets few large batches, not many small ones."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= AT_ONCE:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _digits(entity: pa.ChunkedArray, count: int, depth: int) -> IntArray:
    """To which of `count` files rows belong [n]."""
    coded = pa.chunked_array(entity).combine_chunks().dictionary_encode()
    hashed = pd.util.hash_array(np.array([str(e) for e in coded.dictionary.to_pylist()], object))
    home: IntArray = (hashed // np.uint64(FAN**depth) % np.uint64(count)).astype(np.int64)
    codes: IntArray = coded.indices.to_numpy()
    return home[codes]


def _batches(file: Path) -> Iterator[pa.Table]:
    with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as stream:
        for batch in stream:
            yield pa.Table.from_batches([batch])
