"""Raw tables: what every reader of a file format hands to the preparation, whatever the format was.

Cells of a CSV file arrive as text, those of Parquet or of a simulator may be numbers; `checks` reads both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_meta.core.schema import Schema
from recsys_meta.core.types import IntArray

OnError = Literal["fail", "skip"]
Duplicates = Literal["refuse", "keep"]
ProgressCallback = Callable[[str, float], None]
"""Called with the name of a stage and the share of it that is done, 0 to 1."""

BLOCK_BYTES = 24 * 2**20
"""Bytes of a file read at a time: about a million short rows."""

SPLIT_REMEDY = "Correct the line: is a separator missing, doubled or of another kind?"
UTF8_REMEDY = "Save the file as UTF-8"
REJECT_COLUMNS = ("line", "field", "reason", "remedy", "row")


def empty_rejects() -> pd.DataFrame:
    """An empty table of rejected rows: line, field, reason, remedy and the row's text."""
    return pd.DataFrame({name: pd.Series(dtype="int64" if name == "line" else "object") for name in REJECT_COLUMNS})


def reject_rows(lines: IntArray, field: str, reason: object, remedy: object, row: object) -> pd.DataFrame:
    """Rejected rows at these lines [n]; reason, remedy and row are one text or n of them."""
    cells = {"line": np.asarray(lines, np.int64), "field": field, "reason": reason, "remedy": remedy, "row": row}
    return pd.DataFrame(cells, columns=list(REJECT_COLUMNS))


@dataclass(frozen=True)
class RowChunk:
    """Some rows of one file.

    `lines` [n] are the 1-based lines where rows start, the header counted (row numbers in Parquet). `rejects`
    are rows that could not even be split into cells. `done` is the share of the file read so far.
    """

    file: str
    frame: pd.DataFrame
    lines: IntArray
    rejects: pd.DataFrame = field(default_factory=empty_rejects)
    fraction: float = 1.0


ReadChunks = Callable[[int], Iterator[RowChunk]]
"""Reads a table from its start, about so many bytes at a time."""


@dataclass(frozen=True)
class RawFeatureTable:
    """Features of entities or of items: rows identified by the column `key`, read whole.

    `inline`: the columns stand in the events themselves, where the rows of an id must agree.
    """

    key: str
    read: ReadChunks
    inline: bool = False


@dataclass(frozen=True)
class RawTables:
    """A data set before preparation.

    `title` names the column of the item table to show to people. `origin` are the files it was read from,
    `expected` the published counts (entities, items, events) to compare with.
    """

    schema: Schema
    events: ReadChunks
    entities: RawFeatureTable | None = None
    items: RawFeatureTable | None = None
    title: str | None = None
    duplicates: Duplicates = "refuse"
    origin: tuple[str, ...] = ()
    expected: Mapping[str, int] = field(default_factory=dict)


def map_chunks(read: ReadChunks, change: Callable[[RowChunk], RowChunk]) -> ReadChunks:
    """A reader whose chunks are changed one by one."""

    def changed(block: int) -> Iterator[RowChunk]:
        for chunk in read(block):
            yield change(chunk)

    return changed


def map_frames(read: ReadChunks, change: Callable[[pd.DataFrame], pd.DataFrame]) -> ReadChunks:
    """A reader whose frames are changed, row by row in place, by a function of the whole frame."""
    return map_chunks(read, lambda chunk: replace(chunk, frame=change(chunk.frame)))


def merge_chunks(read: ReadChunks) -> ReadChunks:
    """A reader that gives the table in one piece, for what depends on all rows; nothing of an empty table."""

    def joined(block: int) -> Iterator[RowChunk]:
        chunks = list(read(block))
        if chunks:
            frame = pd.concat([c.frame for c in chunks], ignore_index=True)
            lines = np.concatenate([c.lines for c in chunks])
            rejects = pd.concat([c.rejects for c in chunks], ignore_index=True)
            yield RowChunk(chunks[0].file, frame, lines, rejects)

    return joined


def select_rows(chunk: RowChunk, rows: IntArray | npt.NDArray[np.bool_]) -> RowChunk:
    """Some rows of a chunk with their lines: a mask [n], or positions, of which one may come more than once."""
    place = np.flatnonzero(rows) if rows.dtype == bool else rows
    return replace(chunk, frame=chunk.frame.iloc[place].reset_index(drop=True), lines=chunk.lines[place])


def read_frame(file: str, frame: pd.DataFrame) -> ReadChunks:
    """A reader of a table that exists already; rows count from 1."""

    def read(block: int) -> Iterator[RowChunk]:
        step = max(1, block // 32)
        for start in range(0, len(frame), step):
            part = frame.iloc[start : start + step].reset_index(drop=True)
            yield RowChunk(
                file, part, np.arange(start + 1, start + 1 + len(part)), fraction=(start + len(part)) / len(frame)
            )

    return read
