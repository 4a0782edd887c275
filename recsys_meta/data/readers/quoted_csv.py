"""Reader of CSV with quotes, whose cells may hold separators, doubled quotes and line breaks."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recsys_meta.data.readers.raw_tables import SPLIT_REMEDY, UTF8_REMEDY, RowChunk, empty_rejects, reject_rows

TextBlock = tuple[bytes, int, float]
"""Whole lines in UTF-8 with line feeds, the 1-based number of the first of them, the fraction of the file read."""


def read_quoted(
    path: Path,
    texts: Iterator[TextBlock],
    names: Sequence[str],
    columns: Sequence[str],
    separator: str,
    written_separator: str | None = None,
    escape: str | None = None,
) -> Iterator[RowChunk]:
    """Yield chunks of some columns as text, one for each block of text.

    `names` are the columns of the file, `columns` those to read. `separator` is one character, which may stand for
    `written_separator`; `escape` stands before a quote within quotes. A row that cannot be split is rejected, and
    reading goes on with the next line.
    """
    lines = _LineReader(texts)
    reader = csv.reader(lines, delimiter=separator, strict=True, escapechar=escape, doublequote=escape is None)
    restored = None if written_separator in (None, separator) else (separator, written_separator)
    buffer, lines_before = _ChunkBuffer(str(path), names, columns), 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            number = lines.first_line + lines_before
            buffer.reject(number, f"cannot be split: {error}", SPLIT_REMEDY, lines.latest_line)
        else:
            cells = row if restored is None else [c.replace(*restored) for c in row]
            buffer.add(lines.first_line + lines_before, cells)
        lines_before = reader.line_num
        if lines.block_changed:
            lines.block_changed = False
            yield buffer.chunk(lines)
            buffer = _ChunkBuffer(str(path), names, columns)
    yield buffer.chunk(lines)


class _LineReader:
    """Iterator over the lines of all blocks, for the csv module. A line that is not UTF-8 is replaced by an empty one.

    `first_line` is the number of the very first line, `latest_line` the text of the latest. `block_changed` becomes
    True when a new block begins; the reader of the rows resets it. `invalid_lines` are the lines that are not UTF-8,
    with their numbers.
    """

    def __init__(self, texts: Iterator[TextBlock]) -> None:
        self._texts: Iterator[TextBlock] = texts
        self._lines: Iterator[bytes] = iter(())
        self.first_line, self.fraction, self.latest_line, self.block_changed = 0, 0.0, "", False
        self.invalid_lines: list[tuple[int, str]] = []
        self._lines_read = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = next(self._lines, None)
        if raw is None:
            text, line, self.fraction = next(self._texts)
            self.block_changed, self.first_line = self._lines_read > 0, self.first_line or line
            self._lines = iter(text.removesuffix(b"\n").split(b"\n"))
            raw = next(self._lines)
        self._lines_read += 1
        try:
            self.latest_line = raw.decode("utf-8") + "\n"
        except UnicodeDecodeError:
            self.invalid_lines.append((self.first_line + self._lines_read - 1, raw.decode("utf-8", "backslashreplace")))
            self.latest_line = "\n"
        return self.latest_line


class _ChunkBuffer:
    """Rows and rejects of one chunk while it is read."""

    def __init__(self, file: str, names: Sequence[str], columns: Sequence[str]) -> None:
        self._file, self._width, self._columns = file, len(names), columns
        self._positions = [list(names).index(c) for c in columns]
        self._rows: list[list[str]] = []
        self._lines: list[int] = []
        self._rejects: list[tuple[int, str, str, str]] = []

    def add(self, line: int, row: list[str]) -> None:
        """Add the row that starts at a line; reject it if its number of cells is wrong."""
        if not row:
            return
        if len(row) != self._width:
            reason = f"has {len(row)} fields where {self._width} are expected"
            self.reject(line, reason, SPLIT_REMEDY, ",".join(row))
            return
        self._rows.append(row)
        self._lines.append(line)

    def reject(self, line: int, reason: str, remedy: str, row: str) -> None:
        """Add a rejected row with its text."""
        self._rejects.append((line, reason, remedy, row.rstrip("\n")))

    def chunk(self, lines: _LineReader) -> RowChunk:
        """Return the rows as a chunk; the invalid lines of the reader become rejects of it."""
        items = self._rejects + [(n, "is not valid UTF-8", UTF8_REMEDY, row) for n, row in lines.invalid_lines]
        lines.invalid_lines = []
        frame = pd.DataFrame(
            {
                c: pd.Series(_column_cells(self._rows, i), dtype="str")
                for c, i in zip(self._columns, self._positions, strict=True)
            }
        )
        rejects = empty_rejects()
        if items:
            n, reason, remedy, row = zip(*items, strict=True)
            rejects = reject_rows(np.array(n), "", list(reason), list(remedy), list(row))
        return RowChunk(self._file, frame, np.array(self._lines, np.int64), rejects, lines.fraction)


def _column_cells(rows: Iterable[list[str]], column: int) -> list[str]:
    return [row[column] for row in rows]
