"""CSV with quotes: rows whose cells may hold separators, doubled quotes and line breaks."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recsys_meta.data.readers.raw_tables import SPLIT_REMEDY, UTF8_REMEDY, RowChunk, no_rejects, rejects_of

Text = tuple[bytes, int, float]
"""Whole lines in UTF-8 with line feeds, the 1-based line they start at, the share of the file read."""


def read_quoted(
    path: Path, texts: Iterator[Text], names: Sequence[str], columns: Sequence[str], separator: str
) -> Iterator[RowChunk]:
    """Chunks of some columns as text; a row that cannot be split becomes a reject and the next line goes on."""
    lines = _LineReader(texts)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    part, before = _ChunkBuffer(str(path), names, columns), 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            part.refuse(lines.base + before, f"cannot be split: {error}", SPLIT_REMEDY, lines.latest)
        else:
            part.add(lines.base + before, row)
        before = reader.line_num
        if lines.refilled:
            lines.refilled = False
            yield part.chunk(lines)
            part = _ChunkBuffer(str(path), names, columns)
    yield part.chunk(lines)


class _LineReader:
    """Lines of the blocks, for the csv module. A line that is not UTF-8 is passed on as a blank one."""

    def __init__(self, texts: Iterator[Text]) -> None:
        self._texts: Iterator[Text] = texts
        self._lines: Iterator[bytes] = iter(())
        self.base, self.done, self.latest, self.refilled = 0, 0.0, "", False
        self.bad: list[tuple[int, str]] = []
        self._read = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = next(self._lines, None)
        if raw is None:
            text, line, self.done = next(self._texts)
            self.refilled, self.base = self._read > 0, self.base or line
            self._lines = iter(text.removesuffix(b"\n").split(b"\n"))
            raw = next(self._lines)
        self._read += 1
        try:
            self.latest = raw.decode("utf-8") + "\n"
        except UnicodeDecodeError:
            self.bad.append((self.base + self._read - 1, raw.decode("utf-8", "backslashreplace")))
            self.latest = "\n"
        return self.latest


class _ChunkBuffer:
    """Rows gathered for one chunk."""

    def __init__(self, file: str, names: Sequence[str], columns: Sequence[str]) -> None:
        self._file, self._width, self._columns = file, len(names), columns
        self._where = [list(names).index(c) for c in columns]
        self._rows: list[list[str]] = []
        self._lines: list[int] = []
        self._refused: list[tuple[int, str, str, str]] = []

    def add(self, line: int, row: list[str]) -> None:
        if not row:
            return
        if len(row) != self._width:
            reason = f"has {len(row)} fields where {self._width} are expected"
            self.refuse(line, reason, SPLIT_REMEDY, ",".join(row))
            return
        self._rows.append(row)
        self._lines.append(line)

    def refuse(self, line: int, reason: str, remedy: str, row: str) -> None:
        self._refused.append((line, reason, remedy, row.rstrip("\n")))

    def chunk(self, lines: _LineReader) -> RowChunk:
        refused = self._refused + [(n, "is not valid UTF-8", UTF8_REMEDY, row) for n, row in lines.bad]
        lines.bad = []
        frame = pd.DataFrame(
            {c: pd.Series(_cells(self._rows, i), dtype="str") for c, i in zip(self._columns, self._where, strict=True)}
        )
        rejects = no_rejects()
        if refused:
            n, reason, remedy, row = zip(*refused, strict=True)
            rejects = rejects_of(np.array(n), "", list(reason), list(remedy), list(row))
        return RowChunk(self._file, frame, np.array(self._lines, np.int64), rejects, lines.done)


def _cells(rows: Iterable[list[str]], column: int) -> list[str]:
    return [row[column] for row in rows]
