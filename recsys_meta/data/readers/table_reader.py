"""One reader for tables in files of any form: delimited text, JSON, Parquet and Arrow, packed or not.

The preparation of data sets and the event files of commands read by it, so that a file means the same to both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import orjson

from recsys_meta.data.readers.byte_stream import content_suffix, detect_encoding, first_bytes, wide_encoding
from recsys_meta.data.readers.csv_reader import CsvDialect, detect_header, read_csv
from recsys_meta.data.readers.json_reader import JSON_SUFFIXES, read_json, read_json_columns
from recsys_meta.data.readers.parquet_reader import ARROW_MAGIC, PARQUET_MAGIC, read_column_names, read_parquet
from recsys_meta.data.readers.raw_tables import ReadChunks, RowChunk

TableFormat = Literal["csv", "json", "parquet"]
"""Forms of files; "parquet" is also that of Arrow."""

PARQUET_SUFFIXES = (".parquet", ".pq", ".feather", ".arrow", ".ipc")
_TEXT_SUFFIXES = (".csv", ".tsv", ".inter")


@dataclass(frozen=True)
class TableForm:
    """Form of a file: its format, None to tell it by name and content, and the dialect of a text."""

    format: TableFormat | None = None
    dialect: CsvDialect = field(default_factory=CsvDialect)

    def of(self, path: Path) -> TableFormat:
        """Return the format of a file. Raises DataError where the file cannot be read."""
        return self.format or detect_format(path)


def detect_format(path: Path) -> TableFormat:
    """Tell the format of a file by the ending of its name, else by its content. Raises DataError as `read_bytes`."""
    suffix = content_suffix(path)
    if suffix in PARQUET_SUFFIXES:
        return "parquet"
    if suffix in JSON_SUFFIXES:
        return "json"
    if suffix in _TEXT_SUFFIXES:
        return "csv"
    head = first_bytes(path)
    if head.startswith((PARQUET_MAGIC, ARROW_MAGIC)):
        return "parquet"
    if (wide := wide_encoding(head)) is not None:
        head = head.decode(wide, "ignore").removeprefix("\ufeff").encode()
    line = head.lstrip().partition(b"\n")[0]
    return "json" if line[:1] in (b"{", b"[") and _is_json(line) else "csv"


def detect_form(path: Path) -> TableForm:
    """Tell format and encoding of a file by its name and content. Raises DataError as `read_bytes`."""
    table_format = detect_format(path)
    return TableForm(
        table_format, CsvDialect() if table_format == "parquet" else CsvDialect(encoding=detect_encoding(path))
    )


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict | list)
    except orjson.JSONDecodeError:
        return line.strip() in (b"{", b"[")


def read_table(
    path: Path, columns: Sequence[str], form: TableForm = TableForm(), list_separators: Mapping[str, str] | None = None
) -> ReadChunks:
    """Return a reader of some columns of a file of any form. `list_separators` are those of `read_parquet`.

    The reader raises DataError for a file that cannot be used as a whole.
    """

    def read(block: int) -> Iterator[RowChunk]:
        match form.of(path):
            case "parquet":
                reader = read_parquet(path, columns, list_separators)
            case "json":
                reader = read_json(path, columns, list_separators, form.dialect.encoding)
            case "csv":
                reader = read_csv(path, columns, form.dialect)
        yield from reader(block)

    return read


def read_layout(
    path: Path, form: TableForm = TableForm(), expected: Sequence[str] = ()
) -> tuple[tuple[str, ...], TableForm]:
    """Read the names of the columns of a file; return them with its form, in which format and separator are known.

    The separator is that with which most of the `expected` columns appear. Raises DataError as `read_table`.
    """
    table_format = form.of(path)
    if table_format == "parquet":
        return read_column_names(path), replace(form, format=table_format)
    if table_format == "json":
        return read_json_columns(path, form.dialect.encoding), replace(form, format=table_format)
    names, separator = detect_header(path, form.dialect, expected)
    return names, TableForm(table_format, replace(form.dialect, separator=separator))
