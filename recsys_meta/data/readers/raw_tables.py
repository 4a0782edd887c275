"""Raw tables: the common form in which readers of all file formats pass rows to the preparation.

Cells of a CSV file are text, those of Parquet or of a simulator may be numbers; the checks of rows read both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_meta.core.arrays import IntArray
from recsys_meta.core.schema import Schema

OnError = Literal["fail", "skip"]
Duplicates = Literal["refuse", "keep"]
Repeated = Literal["refuse", "first", "last"]
ProgressCallback = Callable[[str, float], None]
"""Function that is called with the name of a stage and the fraction of it that is complete, 0 to 1."""

BLOCK_BYTES = 24 * 2**20
"""Bytes of a file that are read at a time: about a million short rows."""

SPLIT_REMEDY = "Correct the line: is a separator missing, doubled or of another kind?"
UTF8_REMEDY = 'Save the file as UTF-8, or say how it is written: encoding = "latin-1" under [files]'
REJECT_COLUMNS = ("line", "field", "reason", "remedy", "row")


def empty_rejects() -> pd.DataFrame:
    """Return an empty table of rejected rows, with the columns line, field, reason, remedy and row (its text)."""
    return pd.DataFrame({name: pd.Series(dtype="int64" if name == "line" else "object") for name in REJECT_COLUMNS})


def reject_rows(lines: IntArray, field: str, reason: object, remedy: object, row: object) -> pd.DataFrame:
    """Build a table of rejected rows at these lines [n]; reason, remedy and row are one text each, or n of them."""
    cells = {"line": np.asarray(lines, np.int64), "field": field, "reason": reason, "remedy": remedy, "row": row}
    return pd.DataFrame(cells, columns=list(REJECT_COLUMNS))


@dataclass(frozen=True)
class RowChunk:
    """Some rows of one file.

    `lines` [n] are the 1-based lines where rows start, the header counted (row numbers in Parquet). `rejects` are rows
    that could not be split into cells, as `reject_rows` returns them. `fraction` is the fraction of the file that has
    been read, 0 to 1.
    """

    file: str
    frame: pd.DataFrame
    lines: IntArray
    rejects: pd.DataFrame = field(default_factory=empty_rejects)
    fraction: float = 1.0


ReadChunks = Callable[[int], Iterator[RowChunk]]
"""Reader of a table: a function that yields its chunks from the start, each of about the given number of bytes."""


@dataclass(frozen=True)
class RawFeatureTable:
    """Feature table of entities or of items before encoding: rows identified by the id in the column `key`.

    With `inline` the columns are part of the events, and all rows of an id must have the same features. `repeated` says
    which row of an id counts where it has several; they are refused by default.
    """

    key: str
    read: ReadChunks
    inline: bool = False
    repeated: Repeated = "refuse"


@dataclass(frozen=True)
class RawTables:
    """A data set before preparation: its schema, the reader of the events, and the feature tables.

    `title` is the column of the item table with names for display. `duplicates` says what happens to rows that repeat
    an earlier one. `origin` are the files that are read; `expected` the published counts (entities, items, events), of
    which a deviation is reported as a warning. `ordinal_time` is True where times only put rows in order: nothing is
    then said of their range. `conditions` are the columns whose cells decide which rows of the events are read.
    """

    schema: Schema
    events: ReadChunks
    entities: RawFeatureTable | None = None
    items: RawFeatureTable | None = None
    title: str | None = None
    duplicates: Duplicates = "refuse"
    origin: tuple[str, ...] = ()
    expected: Mapping[str, int] = field(default_factory=dict)
    ordinal_time: bool = False
    conditions: tuple[str, ...] = ()


def map_chunks(read: ReadChunks, change: Callable[[RowChunk], RowChunk]) -> ReadChunks:
    """Return a reader that applies a function to every chunk."""

    def read_mapped(block: int) -> Iterator[RowChunk]:
        for chunk in read(block):
            yield change(chunk)

    return read_mapped


def map_frames(read: ReadChunks, change: Callable[[pd.DataFrame], pd.DataFrame]) -> ReadChunks:
    """Return a reader that applies a function to every frame; the function must keep the number and order of rows."""
    return map_chunks(read, lambda chunk: replace(chunk, frame=change(chunk.frame)))


def merge_chunks(read: ReadChunks) -> ReadChunks:
    """Return a reader that yields the whole table as one chunk, for functions of all rows; an empty table has none."""

    def read_merged(block: int) -> Iterator[RowChunk]:
        chunks = list(read(block))
        if chunks:
            frame = pd.concat([c.frame for c in chunks], ignore_index=True)
            lines = np.concatenate([c.lines for c in chunks])
            rejects = pd.concat([c.rejects for c in chunks], ignore_index=True)
            yield RowChunk(chunks[0].file, frame, lines, rejects)

    return read_merged


def select_rows(chunk: RowChunk, rows: IntArray | npt.NDArray[np.bool_]) -> RowChunk:
    """Select rows of a chunk with their lines, by a mask [n] or by positions, which may repeat."""
    position = np.flatnonzero(rows) if rows.dtype == bool else rows
    return replace(chunk, frame=chunk.frame.iloc[position].reset_index(drop=True), lines=chunk.lines[position])


def read_frame(file: str, frame: pd.DataFrame) -> ReadChunks:
    """Return a reader of a frame in memory, called `file` in messages; its rows are numbered from 1."""

    def read(block: int) -> Iterator[RowChunk]:
        step = max(1, block // 32)
        for start in range(0, len(frame), step):
            part = frame.iloc[start : start + step].reset_index(drop=True)
            yield RowChunk(
                file, part, np.arange(start + 1, start + 1 + len(part)), fraction=(start + len(part)) / len(frame)
            )

    return read
