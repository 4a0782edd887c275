"""Reader of CSV files, a block at a time, with the line number of every row.

Arrow splits the rows as long as every line is a row: without quotes, or with quotes that begin and end with the cells.
From the first block with other quotes on, Python's csv module reads the file: it takes ten times as long, but it reads
line breaks inside quotes and says what is wrong with a quote.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv
from pyarrow.lib import ArrowInvalid

from recsys_meta.core.arrays import IntArray
from recsys_meta.core.errors import DataError
from recsys_meta.data.readers.byte_stream import is_ascii_compatible, read_text
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

    `separator` None: detected from the header; it may have several letters. `names`: column names of a file without a
    header. `quotes` False: a quote is a character like any other (None: so with a separator of several letters).
    `escape` is the character before a quote within quotes, where quotes are not doubled. The first `skip_lines` lines
    are not read, nor are lines that begin with `comment`. `rename` is applied to the column names of the header.
    """

    separator: str | None = None
    names: tuple[str, ...] | None = None
    quotes: bool | None = None
    encoding: str = "utf-8"
    rename: Callable[[str], str] = str
    escape: str | None = None
    skip_lines: int = 0
    comment: str | None = None

    @property
    def has_quotes(self) -> bool:
        """True where a quote begins a quoted cell."""
        return self.quotes if self.quotes is not None else self.separator is None or len(self.separator) == 1


@dataclass(frozen=True)
class _TextBlock:
    text: bytes
    line: int
    fraction: float


def read_csv(path: Path, columns: Sequence[str], dialect: CsvDialect = CsvDialect()) -> ReadChunks:
    """Return a reader of some columns of a CSV file, packed or not, as text.

    The reader raises DataError for a file that is missing, empty or damaged, or that lacks a column.
    """

    def read(block: int) -> Iterator[RowChunk]:
        blocks = _line_blocks(path, block, dialect)
        names, separator, first = _split_header(path, blocks, columns, dialect)
        for part in _prepend(first, blocks):
            is_quoted = dialect.has_quotes and b'"' in part.text
            if is_quoted and (len(separator) > 1 or dialect.escape or not _is_quoted_by_cell(part.text, separator)):
                mark = _UNIT_SEPARATOR if len(separator) > 1 else separator.encode()
                rest = _prepend(part, blocks)
                texts = ((b.text.replace(separator.encode(), mark), b.line, b.fraction) for b in rest)
                yield from read_quoted(path, texts, names, columns, mark.decode(), separator, dialect.escape)
                return
            yield _read_lines(path, part, names, columns, separator, is_quoted)

    return read


def read_header(path: Path, dialect: CsvDialect = CsvDialect()) -> tuple[str, ...]:
    """Read the column names of a CSV file. Raises DataError as `read_csv` does."""
    return detect_header(path, dialect)[0]


def detect_header(
    path: Path, dialect: CsvDialect = CsvDialect(), expected: Sequence[str] = ()
) -> tuple[tuple[str, ...], str]:
    """Read the column names of a CSV file and its separator, which is that with which most `expected` names appear.

    Raises DataError as `read_csv` does, but for missing columns.
    """
    names, separator, _ = _split_header(path, _line_blocks(path, 2**16, dialect), expected, dialect, check=False)
    return tuple(names), separator


def count_columns(path: Path, dialect: CsvDialect) -> int:
    """Count the columns of the first row of a file without a header. Raises DataError as `read_csv` does."""
    unnamed = replace(dialect, names=None)
    return len(detect_header(path, unnamed)[0])


def find_file(folder: Path, name: str) -> Path:
    """Return the path of a file of a built-in data set, plain or gzipped. Raises DataError if it is missing."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError("the file is missing", file=folder / name, remedy="Is this the folder of the data set as unpacked?")


def _prepend(first: _TextBlock, rest: Iterator[_TextBlock]) -> Iterator[_TextBlock]:
    yield first
    yield from rest


def _line_blocks(path: Path, size: int, dialect: CsvDialect) -> Iterator[_TextBlock]:
    """Yield blocks of whole lines in UTF-8 with line feeds only, each with the number of its first line, from 1.

    Lines that are skipped and comments are left empty, so that numbers stay right.
    """
    line, rest, skip = 1, b"", dialect.skip_lines
    for raw, fraction in read_text(path, size, dialect.encoding):
        cut = raw.rfind(b"\n") + 1
        if cut:
            text = _to_utf8(path, line, rest + raw[:cut], dialect.encoding)
            count = text.count(b"\n")
            yield _TextBlock(_blank_preamble(text, skip, dialect.comment), line, fraction)
            line, skip, rest = line + count, max(0, skip - count), raw[cut:]
        else:
            rest += raw
        if len(rest) > max(64 * size, 2**26):
            raise DataError("a line is too long to be one", file=path, line=line, remedy="Is this a CSV file?")
    if rest:
        text = _to_utf8(path, line, rest, dialect.encoding)
        yield _TextBlock(_blank_preamble(text, skip, dialect.comment), line, 1.0)


def _blank_preamble(text: bytes, skip: int, comment: str | None) -> bytes:
    """Empty the first `skip` lines, and those that begin with the mark of a comment."""
    if not skip and (comment is None or comment.encode() not in text):
        return text
    mark = None if comment is None else comment.encode()
    lines = text.split(b"\n")
    kept = [b"" if i < skip or (mark is not None and t.startswith(mark)) else t for i, t in enumerate(lines)]
    return b"\n".join(kept)


def _to_utf8(path: Path, line: int, text: bytes, encoding: str) -> bytes:
    text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text
    if encoding == "utf-8" or not is_ascii_compatible(encoding):
        return text
    try:
        return text.decode(encoding).encode()
    except UnicodeDecodeError as error:
        error_line = line + text.count(b"\n", 0, error.start)
        raise DataError(f"is not valid {encoding}", file=path, line=error_line, remedy="Correct the encoding") from None


def _split_header(
    path: Path, blocks: Iterator[_TextBlock], columns: Sequence[str], dialect: CsvDialect, check: bool = True
) -> tuple[list[str], str, _TextBlock]:
    """Split the header from the first block; return the column names, the separator, and the rest of the block."""
    block = next((b for b in blocks if b.text.strip()), None)
    if block is None:
        raise DataError("the file is empty", file=path, remedy="Give a file with rows")
    blank = len(block.text) - len(block.text.lstrip(b"\n"))
    block = _TextBlock(block.text[blank:], block.line + blank, block.fraction)
    if dialect.names is not None:
        _check_names(path, list(dialect.names), columns)
        return list(dialect.names), dialect.separator or _detect_unnamed(block.text, dialect), block
    head, _, rest = block.text.partition(b"\n")
    text = _decode_utf8(head)
    if text is None:
        raise DataError("the header is not valid UTF-8", file=path, line=1, remedy=UTF8_REMEDY)
    names, separator = _detect_separator(text, columns, dialect)
    if check:
        _check_names(path, names, columns)
    return names, separator, _TextBlock(rest, block.line + 1, block.fraction)


def _detect_separator(head: str, columns: Sequence[str], dialect: CsvDialect) -> tuple[list[str], str]:
    """Return the names of the header and its separator: that with which most of `columns` appear, then most names."""
    candidates = []
    for separator in [dialect.separator] if dialect.separator else SEPARATORS:
        is_quoted = dialect.has_quotes and len(separator) == 1
        cells = _split_cells(head, separator) if is_quoted else head.split(separator)
        names = [dialect.rename(c.strip()) for c in cells]
        candidates.append((len(set(names) & set(columns)), len(names), names, separator))
    _, _, names, separator = max(candidates, key=lambda c: c[:2])
    return names, separator


def _detect_unnamed(text: bytes, dialect: CsvDialect) -> str:
    """Return the separator of a file without a header: that with which the first line has as many cells as names."""
    head = (_decode_utf8(text.partition(b"\n")[0]) or "").strip()
    assert dialect.names is not None
    fitting = [s for s in SEPARATORS if len(_split_cells(head, s)) == len(dialect.names)]
    return fitting[0] if fitting else ","


def _split_cells(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=separator), [])
    except csv.Error:
        return text.split(separator)


def _check_names(path: Path, names: list[str], columns: Sequence[str]) -> None:
    for column in columns:
        if names.count(column) != 1:
            problem = "the column is missing" if column not in names else "two columns have this name"
            remedy = f"The header has: {', '.join(names[:40])}"
            if any(name.replace(".", "", 1).isdecimal() for name in names):
                remedy += '. If that is a row, name the columns: columns = ["..."] beside the path of the file'
            raise DataError(problem, file=path, line=1, field=column, remedy=remedy)


def _decode_utf8(text: bytes) -> str | None:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _is_quoted_by_cell(text: bytes, separator: str) -> bool:
    """Return whether every quote begins a cell, ends one or is doubled within one, in its own line."""
    array = np.frombuffer(b"\n" + text + b"\n", np.uint8)
    quote, ends = array == ord('"'), array == ord("\n")
    outside = ends | (array == separator.encode()[0])
    at = np.flatnonzero(quote)
    quotes_before = np.searchsorted(at, np.flatnonzero(ends))
    # Of a doubled quote the first one seems to end the cell, and the second one to begin it again.
    beside = np.concatenate([at[::2] - 1, at[1::2] + 1])
    return bool((quotes_before % 2 == 0).all() and (outside | quote)[beside].all())


def _read_lines(
    path: Path, block: _TextBlock, names: list[str], columns: Sequence[str], separator: str, is_quoted: bool
) -> RowChunk:
    """Split a block in which every line is a row, with quotes around cells or none that mean anything.

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
        text, _UNIT_SEPARATOR if len(separator) > 1 else separator.encode(), len(names), is_quoted
    )
    if len(wrong_width):
        text, bad = _blank_lines(text, wrong_width)
        reason = [f"has {n} fields where {len(names)} are expected" for n in width[wrong_width]]
        rejects.append(_malformed_rows(block.line, bad, reason, SPLIT_REMEDY))
    frame = _parse_block(path, text, names, columns, separator, is_quoted) if len(valid) else _empty_frame(columns)
    all_rejects = pd.concat(rejects) if rejects else empty_rejects()
    return RowChunk(str(path), frame, valid + block.line, all_rejects, block.fraction)


def _count_fields(text: bytes, separator: bytes, expected: int, is_quoted: bool) -> tuple[IntArray, IntArray, IntArray]:
    """Count the fields of each line; return the counts, and the offsets of lines with the expected and another count.

    Empty lines are in neither list.
    """
    array = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(array == ord("\n"))
    separators = np.flatnonzero(array == separator[0])
    if is_quoted:
        separators = separators[np.searchsorted(np.flatnonzero(array == ord('"')), separators) % 2 == 0]
    before = np.searchsorted(separators, ends)
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


def _parse_block(
    path: Path, text: bytes, names: list[str], columns: Sequence[str], separator: str, is_quoted: bool
) -> pd.DataFrame:
    delimiter = separator if len(separator) == 1 else _UNIT_SEPARATOR.decode()
    try:
        table = arrow_csv.read_csv(
            pa.py_buffer(text),
            arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=max(len(text) + 1, 2**16)),
            arrow_csv.ParseOptions(
                delimiter=delimiter, quote_char='"' if is_quoted else False, ignore_empty_lines=True
            ),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), include_columns=list(columns)),
        )
    except ArrowInvalid as error:
        raise DataError(f"cannot be read as a table: {error}", file=path) from None
    return pd.DataFrame({c: table.column(c).to_pandas() for c in columns})
