"""Reader of CSV files, a block at a time, with the line number of every row.

Arrow splits the rows as long as no quote appears. From the block with the first quote on, Python's csv module reads the
file: it is slower, but it reads separators and line breaks inside quotes.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv
from pyarrow.lib import ArrowInvalid

from recsys_meta.core.errors import DataError
from recsys_meta.core.types import IntArray
from recsys_meta.data.readers.quoted_csv import read_quoted
from recsys_meta.data.readers.raw_tables import (
    SPLIT_REMEDY,
    UTF8_REMEDY,
    ReadChunks,
    RowChunk,
    empty_rejects,
    reject_rows,
)

SEPARATORS = (",", "\t", ";", "|")
_UNIT_SEPARATOR = b"\x1f"  # replaces a separator of several characters, which Arrow does not support


@dataclass(frozen=True)
class CsvDialect:
    """Format of a text file.

    `separator` None: detected from the header. `names`: column names of a file without a header. `quotes` False: a
    quote is a character like any other. `rename` is applied to the column names of the header.
    """

    separator: str | None = None
    names: tuple[str, ...] | None = None
    quotes: bool = True
    encoding: str = "utf-8"
    rename: Callable[[str], str] = str


@dataclass(frozen=True)
class _TextBlock:
    text: bytes
    line: int
    fraction: float


def read_csv(path: Path, columns: Sequence[str], dialect: CsvDialect = CsvDialect()) -> ReadChunks:
    """Return a reader of some columns of a CSV file, plain or gzipped, as text.

    The reader raises DataError for a file that is missing, empty or damaged, or that lacks a column.
    """

    def read(block: int) -> Iterator[RowChunk]:
        blocks = _line_blocks(path, block, dialect.encoding)
        names, separator, first = _split_header(path, blocks, columns, dialect)
        for part in _prepend(first, blocks):
            if dialect.quotes and b'"' in part.text:
                texts = ((b.text, b.line, b.fraction) for b in _prepend(part, blocks))
                yield from read_quoted(path, texts, names, columns, separator)
                return
            yield _read_unquoted(path, part, names, columns, separator)

    return read


def read_header(path: Path, dialect: CsvDialect = CsvDialect()) -> tuple[str, ...]:
    """Read the column names of a CSV file. Raises DataError as `read_csv` does."""
    return tuple(_split_header(path, _line_blocks(path, 2**16, dialect.encoding), (), dialect)[0])


def find_file(folder: Path, name: str) -> Path:
    """Return the path of a file of a built-in data set, plain or gzipped. Raises DataError if it is missing."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError("the file is missing", file=folder / name, remedy="Is this the folder of the data set as unpacked?")


def _prepend(first: _TextBlock, rest: Iterator[_TextBlock]) -> Iterator[_TextBlock]:
    yield first
    yield from rest


def _line_blocks(path: Path, size: int, encoding: str) -> Iterator[_TextBlock]:
    """Yield blocks of whole lines in UTF-8 with line feeds only, each with the number of its first line, from 1."""
    line, rest, first = 1, b"", True
    for part, fraction in _read_bytes(path, size):
        if first and part[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError("is UTF-16", file=path, line=1, remedy="Save it as UTF-8")
        raw, first = part.removeprefix(b"\xef\xbb\xbf") if first else part, False
        cut = raw.rfind(b"\n") + 1
        if cut:
            text = _to_utf8(path, line, rest + raw[:cut], encoding)
            yield _TextBlock(text, line, fraction)
            line += text.count(b"\n")
            rest = raw[cut:]
        else:
            rest += raw
        if len(rest) > max(64 * size, 2**26):
            raise DataError("a line is too long to be one", file=path, line=line, remedy="Is this a CSV file?")
    if rest:
        yield _TextBlock(_to_utf8(path, line, rest, encoding), line, 1.0)


def _to_utf8(path: Path, line: int, text: bytes, encoding: str) -> bytes:
    text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text
    if encoding == "utf-8":
        return text
    try:
        return text.decode(encoding).encode()
    except UnicodeDecodeError as error:
        error_line = line + text.count(b"\n", 0, error.start)
        raise DataError(f"is not valid {encoding}", file=path, line=error_line, remedy="Correct the encoding") from None


def _read_bytes(path: Path, size: int) -> Iterator[tuple[bytes, float]]:
    try:
        total = max(path.stat().st_size, 1)
        with path.open("rb") as file, _decompress(path, file) as stream:
            while raw := stream.read(size):
                yield raw, min(file.tell() / total, 1.0)
    except FileNotFoundError:
        raise DataError("no such file", file=path, remedy="Check the path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = f"the compressed file is cut short or damaged ({error})"
        raise DataError(problem, file=path, remedy="Fetch or compress it again") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path) from None


def _decompress(path: Path, file: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file


def _split_header(
    path: Path, blocks: Iterator[_TextBlock], columns: Sequence[str], dialect: CsvDialect
) -> tuple[list[str], str, _TextBlock]:
    """Split the header from the first block; return the column names, the separator, and the rest of the block."""
    block = next(blocks, None)
    if block is None or not block.text.strip():
        raise DataError("the file is empty", file=path, remedy="Give a file with rows")
    if dialect.names is not None:
        return list(dialect.names), dialect.separator or ",", block
    head, _, rest = block.text.partition(b"\n")
    text = _decode_utf8(head)
    if text is None:
        raise DataError("the header is not valid UTF-8", file=path, line=1, remedy=UTF8_REMEDY)
    names, separator = _detect_separator(text, columns, dialect)
    _check_names(path, names, columns)
    return names, separator, _TextBlock(rest, block.line + 1, block.fraction)


def _detect_separator(head: str, columns: Sequence[str], dialect: CsvDialect) -> tuple[list[str], str]:
    """Return the names of the header and its separator: that with which most of `columns` appear, then most names."""
    candidates = []
    for separator in [dialect.separator] if dialect.separator else SEPARATORS:
        cells = _split_cells(head, separator) if dialect.quotes else head.split(separator)
        names = [dialect.rename(c.strip()) for c in cells]
        candidates.append((len(set(names) & set(columns)), len(names), names, separator))
    _, _, names, separator = max(candidates, key=lambda c: c[:2])
    return names, separator


def _split_cells(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=separator), [])
    except csv.Error:
        return text.split(separator)


def _check_names(path: Path, names: list[str], columns: Sequence[str]) -> None:
    for column in columns:
        if names.count(column) != 1:
            problem = "the column is missing" if column not in names else "two columns have this name"
            header = ", ".join(names[:40])
            raise DataError(problem, file=path, line=1, field=column, remedy=f"The header has: {header}")


def _decode_utf8(text: bytes) -> str | None:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _read_unquoted(path: Path, block: _TextBlock, names: list[str], columns: Sequence[str], separator: str) -> RowChunk:
    """Split a block without quotes, in which every line is a row.

    Malformed lines are rejected and replaced by empty ones, so that line numbers stay right.
    """
    text = block.text if block.text.endswith(b"\n") else block.text + b"\n"
    rejects = []
    if _decode_utf8(text) is None:
        text, bad = _blank_lines(text, [i for i, t in enumerate(text.split(b"\n")) if _decode_utf8(t) is None])
        rejects.append(_malformed_rows(block.line, bad, "is not valid UTF-8", UTF8_REMEDY))
    if len(separator) > 1:
        text = text.replace(separator.encode(), _UNIT_SEPARATOR)
    width, valid, wrong_width = _count_fields(
        text, _UNIT_SEPARATOR if len(separator) > 1 else separator.encode(), len(names)
    )
    if len(wrong_width):
        text, bad = _blank_lines(text, wrong_width)
        reason = [f"has {n} fields where {len(names)} are expected" for n in width[wrong_width]]
        rejects.append(_malformed_rows(block.line, bad, reason, SPLIT_REMEDY))
    frame = _parse_block(path, text, names, columns, separator) if len(valid) else _empty_frame(columns)
    all_rejects = pd.concat(rejects) if rejects else empty_rejects()
    return RowChunk(str(path), frame, valid + block.line, all_rejects, block.fraction)


def _count_fields(text: bytes, separator: bytes, expected: int) -> tuple[IntArray, IntArray, IntArray]:
    """Count the fields of each line; return the counts, and the offsets of lines with the expected and another count.

    Empty lines are in neither list.
    """
    array = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(array == ord("\n"))
    before = np.searchsorted(np.flatnonzero(array == separator[0]), ends)
    width = np.diff(before, prepend=0) + 1
    nonempty = np.diff(ends, prepend=-1) > 1
    return width, np.flatnonzero(nonempty & (width == expected)), np.flatnonzero(nonempty & (width != expected))


def _blank_lines(text: bytes, offsets: Sequence[int] | IntArray) -> tuple[bytes, dict[int, bytes]]:
    """Replace the lines at these offsets by empty ones; also return the lines, by offset."""
    lines = text.split(b"\n")
    bad = {int(i): lines[i] for i in offsets}
    for i in bad:
        lines[i] = b""
    return b"\n".join(lines), bad


def _malformed_rows(line: int, bad: dict[int, bytes], reason: object, remedy: str) -> pd.DataFrame:
    rows = [t.replace(_UNIT_SEPARATOR, b"::").decode("utf-8", "backslashreplace") for t in bad.values()]
    return reject_rows(np.fromiter(bad, np.int64) + line, "", reason, remedy, rows)


def _empty_frame(columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame({c: pd.Series(dtype="str") for c in columns})


def _parse_block(path: Path, text: bytes, names: list[str], columns: Sequence[str], separator: str) -> pd.DataFrame:
    delimiter = separator if len(separator) == 1 else _UNIT_SEPARATOR.decode()
    try:
        table = arrow_csv.read_csv(
            pa.py_buffer(text),
            arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=max(len(text) + 1, 2**16)),
            arrow_csv.ParseOptions(delimiter=delimiter, quote_char=False, ignore_empty_lines=True),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), include_columns=list(columns)),
        )
    except ArrowInvalid as error:
        raise DataError(f"cannot be read as a table: {error}", file=path) from None
    return pd.DataFrame({c: table.column(c).to_pandas() for c in columns})
