"""Reader of JSON: an object on each line, an array of objects, or an object of columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd

from recsys_meta.core.cells import LIST_MARK, list_cell, value_text
from recsys_meta.core.errors import DataError
from recsys_meta.data.readers.byte_stream import is_ascii_compatible, read_text
from recsys_meta.data.readers.raw_tables import BLOCK_BYTES, ReadChunks, RowChunk, empty_rejects, reject_rows

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
"""Endings of JSON files, behind which an ending of compression may stand."""

_LINE_REMEDY = "Write one JSON object on each line, or one array of objects"


def read_json(
    path: Path, columns: Sequence[str], list_separators: Mapping[str, str] | None = None, encoding: str = "utf-8"
) -> ReadChunks:
    """Return a reader of some columns of a JSON file, packed or not.

    A column is a key of the objects; "a.b" is the key b of the object under a, where there is no key "a.b". Cells keep
    the types of JSON; lists are joined, or refused, as by `read_parquet`. Lines are those of the file where each holds
    an object, else the numbers of the objects. The reader raises DataError for a file that is missing or no JSON, and
    for a column that none of the first objects has; a line that is no object is a rejected row.
    """
    separators = list_separators or {}

    def read(block: int) -> Iterator[RowChunk]:
        first = True
        for rows, lines, rejects, fraction in _row_blocks(path, block, encoding):
            if first and rows:
                _check_columns(path, columns, rows)
            first = first and not rows
            frame = pd.DataFrame(
                {
                    c: pd.Series([_cell(path, c, _value(row, c), separators.get(c)) for row in rows], dtype=object)
                    for c in columns
                }
            )
            yield RowChunk(str(path), frame, np.array(lines, np.int64), _reject_table(rejects), fraction)

    return read


def read_json_columns(path: Path, encoding: str = "utf-8") -> tuple[str, ...]:
    """Read the names of the columns that the first objects of a JSON file have, those of objects within as "a.b".

    Raises DataError as `read_json` does.
    """
    rows = next(_row_blocks(path, BLOCK_BYTES, encoding), ([], [], [], 1.0))[0]
    return tuple(_names(rows))


_Rows = tuple[list[dict[str, Any]], list[int], list[tuple[int, str, str]], float]


def _names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
        for key, value in row.items():
            if isinstance(value, dict):
                names.update(dict.fromkeys(f"{key}.{inner}" for inner in value))
    return list(names)


def _check_columns(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    names = _names(rows)
    for column in columns:
        if column not in names:
            remedy = f"The objects have: {', '.join(names[:40])}"
            raise DataError("the column is missing", file=path, line=1, field=column, remedy=remedy)


def _value(row: Mapping[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    head, dot, rest = column.partition(".")
    inner = row.get(head) if dot else None
    return _value(inner, rest) if isinstance(inner, dict) else None


def _cell(path: Path, column: str, value: Any, separator: str | None) -> Any:
    if isinstance(value, list):
        if separator is None:
            remedy = "Store text, numbers or timestamps"
            raise DataError("its values are lists, which cannot be read here", file=path, field=column, remedy=remedy)
        refused = dict if separator == LIST_MARK else dict | list
        if any(isinstance(v, refused) for v in value):
            remedy = "Store text, numbers or lists of these"
            raise DataError("its lists hold what cannot be read", file=path, field=column, remedy=remedy)
        return list_cell(value) if separator == LIST_MARK else separator.join(value_text(v) for v in value)
    if isinstance(value, dict):
        remedy = f"Name a key of the object, as {column}.KEY"
        raise DataError("its values are objects, which cannot be read", file=path, field=column, remedy=remedy)
    return value


def _row_blocks(path: Path, block: int, encoding: str) -> Iterator[_Rows]:
    """Yield blocks of objects with their lines, the lines that are no object, and the fraction of the file read."""
    blocks = _line_blocks(path, block, encoding)
    first = next(blocks, None)
    if first is None or not first[0].strip():
        raise DataError("the file is empty", file=path, remedy="Give a file with rows")
    head = next(line for line in first[0].split(b"\n") if line.strip())
    value = _parse(head)
    if isinstance(value, dict):
        second = next(blocks, None)
        is_only_line = second is None and first[0].strip() == head.strip()
        if not (is_only_line and _is_document(value)):
            for part in (first, *([] if second is None else [second])):
                yield _parse_lines(*part)
            for part in blocks:
                yield _parse_lines(*part)
            return
        text = head
    else:
        text = first[0] + b"".join(part[0] for part in blocks)
    try:
        document = _loads(text)
    except ValueError:
        if text.lstrip()[:1] in (b"[", b"{") and b"}\n" not in text.rstrip():
            raise DataError("is not JSON", file=path, line=1, remedy=_LINE_REMEDY) from None
        yield _parse_lines(text, 1, 1.0)  # of which the first lines are bad
        return
    rows = _document_rows(path, document)
    yield rows, list(range(1, len(rows) + 1)), [], 1.0


def _line_blocks(path: Path, size: int, encoding: str) -> Iterator[tuple[bytes, int, float]]:
    """Yield blocks of whole lines as UTF-8, each with the number of its first line and the fraction read."""
    line, rest = 1, b""
    wide = not is_ascii_compatible(encoding)
    for raw, fraction in read_text(path, size, encoding):
        cut = raw.rfind(b"\n") + 1
        rest += raw[:cut] if cut else raw
        if cut:
            text = rest if encoding == "utf-8" or wide else _decode(path, rest, encoding)
            yield text, line, fraction
            line += text.count(b"\n")
            rest = raw[cut:]
    if rest:
        yield (rest if encoding == "utf-8" or wide else _decode(path, rest, encoding)), line, 1.0


def _decode(path: Path, raw: bytes, encoding: str) -> bytes:
    try:
        return raw.decode(encoding).encode()
    except UnicodeError:
        raise DataError(f"is not valid {encoding}", file=path, remedy="Correct the encoding") from None


def _parse_lines(text: bytes, line: int, fraction: float) -> _Rows:
    rows, lines, rejects = [], [], []
    for number, raw in enumerate(text.split(b"\n"), line):
        if not raw.strip():
            continue
        value = _parse(raw)
        if isinstance(value, dict):
            rows.append(value)
            lines.append(number)
        else:
            reason = "is not a JSON object" if value is not None else "is not JSON" + _encoding_problem(raw)
            rejects.append((number, reason, raw.decode("utf-8", "backslashreplace")[:1000]))
    return rows, lines, rejects, fraction


def _encoding_problem(raw: bytes) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return ", because it is not valid UTF-8"
    return ""


def _parse(raw: bytes) -> Any:
    """Parse one line; None where it is not JSON."""
    try:
        return _loads(raw)
    except ValueError:
        return None


def _loads(raw: bytes) -> Any:
    """Parse JSON. NaN is read as well, as Python, pandas and JavaScript libraries write it. Raises ValueError."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        try:
            return json.loads(raw)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def _document_rows(path: Path, document: Any) -> list[dict[str, Any]]:
    """Return the rows of a document: an array of objects, an object with one such array, or an object of columns."""
    if isinstance(document, dict):
        arrays = [v for v in document.values() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)]
        if len(arrays) == 1:
            document = arrays[0]
        elif document and all(isinstance(v, dict | list) for v in document.values()):
            document = _column_rows(path, document)
        elif document and not any(isinstance(v, dict | list) for v in document.values()):
            document = [document]
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise DataError("holds no table", file=path, line=1, remedy=_LINE_REMEDY)
    return document


def _is_document(value: Mapping[str, Any]) -> bool:
    """Return True for an object that is no row: of columns, or with one array of rows."""
    values = list(value.values())
    has_rows = any(isinstance(v, list) and v and all(isinstance(r, dict) for r in v) for v in values)
    return has_rows or (bool(values) and all(isinstance(v, dict | list) for v in values))


def _column_rows(path: Path, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Turn an object of columns, each a list or an object by row (as pandas writes them), into rows."""
    lists = {k: list(v.values()) if isinstance(v, dict) else v for k, v in columns.items()}
    if len({len(v) for v in lists.values()}) > 1:
        raise DataError("its columns differ in length", file=path, line=1, remedy=_LINE_REMEDY)
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _reject_table(rejects: Sequence[tuple[int, str, str]]) -> pd.DataFrame:
    if not rejects:
        return empty_rejects()
    lines, reasons, rows = zip(*rejects, strict=True)
    return reject_rows(np.array(lines), "", list(reasons), _LINE_REMEDY, list(rows))
