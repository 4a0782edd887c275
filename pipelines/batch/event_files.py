"""Event files: tables of any form with item and perhaps entity, label, time and the fields of a context.

They are read by the readers of the preparation and by its rule for cells, so that a row means to a model what it would
have meant in its training data.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys_meta.core.cells import LIST_MARK, id_cells, is_missing, parse_labels, parse_numbers, text_cells
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import Schema
from recsys_meta.core.time_parsing import EXPECTED, LATEST
from recsys_meta.data.readers.byte_stream import is_ascii_compatible, read_bytes, require_file
from recsys_meta.data.readers.parquet_reader import count_parquet_rows
from recsys_meta.data.readers.raw_tables import RowChunk
from recsys_meta.data.readers.table_reader import TableForm, detect_form, read_layout, read_table
from recsys_meta.data.readers.time_columns import NumberForm, exact_seconds_column
from recsys_meta.inference.requests.context_fields import ACTOR, MAX_DEGREES, NO_CONTEXT, ContextFields
from recsys_meta.inference.requests.entity import Interaction

BLOCK_ROWS = 100_000
"""Rows read at once, about."""

CONTEXT_COLUMN = "context"
"""The column that may hold an object of context fields."""

LINE_COLUMN = "recsys_meta_line"
"""The column that holds the line of each row in the file, for error messages (in Parquet the row's number, from 1)."""

ROLES = ("entity", "item", "label", "time")
"""Columns of an event, by the names that the API has for them; a schema may have others."""

_BYTES_PER_ROW = 32


@dataclass(frozen=True)
class EventFormat:
    """Knowledge of a model about files of events: its context fields, and how its schema reads labels and times."""

    fields: ContextFields = NO_CONTEXT
    schema: Schema | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that an event of this model has."""
        return (*ROLES, *self.fields.names)

    def own_name(self, column: str) -> str | None:
        """Name that the data of the model have for a column."""
        if column in self.fields.all_fields:
            return self.fields.all_fields[column].source
        is_role = self.schema is not None and column in (*ROLES, ACTOR)
        return getattr(self.schema, column) if is_role else None

    def sources(self, names: Collection[str], columns: Collection[str]) -> dict[str, str]:
        """Choose among the names of a file those of the columns that it has: the name that the data of the model have,
        else that of the API.

        Where an item is then without a column (in the data the entity may be called "item"), names of the API come
        first. A column is never read twice, but where the schema says so.
        """
        own = {c: name for c in columns if (name := self.own_name(c)) in names and name is not None}
        generic = {c: name for c in columns if (name := _generic_name(c, names)) is not None}
        for first, second in ((own, generic), (generic, own)):
            chosen = first | {c: n for c, n in second.items() if c not in first and n not in first.values()}
            if "item" in chosen:
                break
        return {c: chosen[c] for c in columns if c in chosen}

    def list_separator(self, column: str) -> str:
        """Return what joins the values of a list in a cell, as it does in the preparation."""
        field = self.fields.all_fields.get(column)
        return LIST_MARK if field is None or field.kind == "multi" else field.separator


def _generic_name(column: str, names: Collection[str]) -> str | None:
    """Return the name of a column as the API has it, alone or, where it is no role, within a context."""
    known = [column] if column in ROLES else [column, f"{CONTEXT_COLUMN}.{column}"]
    return next((name for name in known if name in names), None)


def read_events(path: Path, fields: ContextFields | None = None, schema: Schema | None = None) -> list[Interaction]:
    """Read the interactions of one entity from a file, with the model's context fields that are among its columns.
    Raises DataError naming file, line and field."""
    event_format = EventFormat(fields or NO_CONTEXT, schema)
    chunks, numbers = _event_chunks(path, event_format.columns, event_format), NumberForm()
    frames = [_to_events(path, chunk, event_format, numbers) for chunk in chunks]
    return [event for frame in frames for event in interactions_of(path, frame, event_format.fields)]


def count_rows(path: Path) -> int:
    """Count the events of a file, about: exactly for Parquet, lines for texts. Raises DataError where there is none."""
    require_file(path)
    if TableForm().of(path) == "parquet":
        return count_parquet_rows(path)
    return max(0, sum(block.count(b"\n") for block, _ in read_bytes(path, 2**20)) - 1)


def encoding_warning(path: Path) -> str:
    """Say which encoding a text that is not UTF-8 is read as; empty for others."""
    encoding = detect_form(path).dialect.encoding
    if encoding == "utf-8" or not is_ascii_compatible(encoding):
        return ""
    return f"{path} is not UTF-8: it was read as {encoding}"


def event_tables(path: Path, columns: Collection[str], event_format: EventFormat | None = None) -> Iterator[pa.Table]:
    """Read a table of events in parts of about `BLOCK_ROWS` rows: those of `columns` that it has, and `LINE_COLUMN`.

    Ids are text, labels and numbers of the context numbers, times seconds. Objects of a column `context` become columns
    of their own. Raises DataError naming file, line and field.
    """
    event_format, numbers = event_format or EventFormat(), NumberForm()
    for chunk in _event_chunks(path, columns, event_format):
        frame = _to_events(path, chunk, event_format, numbers)
        yield pa.Table.from_pandas(_arrow_ready(frame), preserve_index=False)


def _event_chunks(path: Path, columns: Collection[str], event_format: EventFormat) -> Iterator[RowChunk]:
    """Read the columns of events that a file has, under the names that an event has for them."""
    require_file(path)
    form = detect_form(path)
    likely_names = [name for c in columns for name in (c, event_format.own_name(c)) if name]
    names, form = _read_layout(path, form, likely_names)
    sources = event_format.sources(names, columns)
    if "item" not in sources:
        raise DataError("there is no such column", file=path, field="item", remedy=f"Found: {', '.join(names)}")
    separators = {s: event_format.list_separator(c) for c, s in sources.items() if c not in (*ROLES, ACTOR)}
    reader = read_table(path, list(dict.fromkeys(sources.values())), form, separators)
    is_empty = True
    for chunk in _named_ids(reader(BLOCK_ROWS * _BYTES_PER_ROW), sources):
        if len(chunk.rejects):
            raise _split_error(path, chunk.rejects)
        frame = pd.DataFrame({column: chunk.frame[source] for column, source in sources.items()})
        is_empty = False
        yield RowChunk(chunk.file, frame, chunk.lines)
    if is_empty:
        yield RowChunk(str(path), pd.DataFrame({c: pd.Series(dtype="str") for c in sources}), np.zeros(0, np.int64))


def _split_error(path: Path, rejects: pd.DataFrame) -> DataError:
    """Describe the first row that could not be split into cells."""
    row = rejects.iloc[0]
    reason, remedy = str(row["reason"]), str(row["remedy"])
    counts = re.fullmatch(r"has (\d+) fields where (\d+) are expected", reason)
    if counts and int(counts[1]) > int(counts[2]):
        reason, remedy = f"more fields than the header: {reason}", "Quote ids that hold a comma"
    return DataError(reason, file=path, line=int(row["line"]), remedy=remedy)


def _read_layout(path: Path, form: TableForm, expected: Sequence[str]) -> tuple[tuple[str, ...], TableForm]:
    try:
        return read_layout(path, form, expected)
    except DataError as error:
        if error.problem == "the file is empty":
            problem = "the file is empty: there is no such column"
            raise DataError(problem, file=path, field="item", remedy=error.remedy) from None
        raise


def _named_ids(chunks: Iterator[RowChunk], sources: Mapping[str, str]) -> Iterator[RowChunk]:
    """Yield chunks; say of a column of ids whose type cannot be read that it holds no names."""
    try:
        yield from chunks
    except DataError as error:
        if error.field is not None and error.field in [sources.get(c) for c in ("entity", "item", ACTOR)]:
            problem, remedy = f"{error.problem}: it holds no names", "Write it as text or as whole numbers"
            raise DataError(problem, file=error.file, line=error.line, field=error.field, remedy=remedy) from None
        raise


def _to_events(path: Path, chunk: RowChunk, event_format: EventFormat, numbers: NumberForm) -> pd.DataFrame:
    """Convert the cells of a chunk: ids to text; labels, times and numbers of the context to numbers, NaN where they
    are empty. Raises DataError for the first cell that cannot be read, and for an empty item."""
    frame = chunk.frame.set_axis(pd.Index(chunk.lines, name=LINE_COLUMN))
    schema = event_format.schema
    if "time" in frame.columns:
        frame = frame.assign(time=_parse_times(path, frame["time"], schema, numbers))
    if "label" in frame.columns:
        frame = frame.assign(label=_parse_labels(path, frame["label"], schema))
    for name, field in event_format.fields.all_fields.items():
        if name in frame.columns and field.kind == "numeric":
            frame = frame.assign(**{name: _parse_context_numbers(path, frame[name], name)})
        elif name in frame.columns and pd.api.types.is_float_dtype(frame[name].dtype):
            frame = frame.assign(**{name: text_cells(frame[name])})
    for name in ("entity", "item", ACTOR):
        if name in frame.columns:
            frame = frame.assign(**{name: _parse_ids(path, frame[name], name)})
    check_filled(path, frame, "item")
    return frame


def _arrow_ready(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with the lines as a column, whose columns have one type each."""
    columns = {str(name): text_cells(cells) if cells.dtype == object else cells for name, cells in frame.items()}
    return pd.DataFrame(columns, index=frame.index).reset_index()


def interactions_of(path: Path, frame: pd.DataFrame, fields: ContextFields | None) -> list[Interaction]:
    """Convert the rows of a table, as `event_tables` has them, to interactions. Raises DataError naming file, line and
    field."""
    labels = frame["label"].tolist() if "label" in frame.columns else [None] * len(frame)
    times = frame["time"].tolist() if "time" in frame.columns else [None] * len(frame)
    names = [] if fields is None else [name for name in fields.names if name in frame.columns]
    cells = zip(*(frame[name].tolist() for name in names), strict=True) if names else iter([()] * len(frame))
    interaction = (fields or NO_CONTEXT).interaction
    return [
        interaction(
            str(item),
            None if pd.isna(label) else float(label),
            None if pd.isna(at) else float(at),
            {n: v for n, v in zip(names, row, strict=True) if not (is_missing(v) or v == "")},
        )
        for item, label, at, row in zip(frame["item"].tolist(), labels, times, cells, strict=True)
    ]


def check_filled(path: Path, frame: pd.DataFrame, field: str) -> None:
    """Raise DataError for the first row of which a field is empty."""
    empty = frame[field].isna() | (text_cells(frame[field]) == "")
    if empty.any():
        raise DataError(f"the {field} is empty", file=path, line=line_of(empty), field=field)


def _parse_ids(path: Path, cells: pd.Series, field: str) -> pd.Series:
    try:
        return id_cells(cells)
    except ValueError as error:
        remedy = "Write ids as text or as whole numbers"
        raise DataError(f"{error}: it holds no names", file=path, field=field, remedy=remedy) from None


def _parse_labels(path: Path, cells: pd.Series, schema: Schema | None) -> pd.Series:
    words = {} if schema is None else schema.label_values
    numbers, empty = parse_labels(cells, words)
    what = f"none of {', '.join(words)}, and not a number" if words else "not a number"
    return _checked_numbers(path, cells, "label", numbers, empty, what)


def _parse_context_numbers(path: Path, cells: pd.Series, field: str) -> pd.Series:
    numbers, empty = parse_numbers(cells)
    return _checked_numbers(path, cells, field, numbers, empty, "not a number")


def _checked_numbers(
    path: Path, cells: pd.Series, field: str, numbers: np.ndarray, empty: np.ndarray, what: str
) -> pd.Series:
    bad = np.isnan(numbers) & ~empty
    if not bad.any():
        bad, what = np.isinf(numbers), "not a finite number"
    if not bad.any() and field in MAX_DEGREES:
        bad, what = np.abs(numbers) > MAX_DEGREES[field], f"no number of degrees up to {MAX_DEGREES[field]:g}"
    if bad.any():
        worst = cells.iloc[int(bad.argmax())]
        line = line_of(pd.Series(bad, cells.index))
        raise DataError(f"{str(worst)!r} is {what}", file=path, line=line, field=field)
    return pd.Series(numbers, cells.index)


def _parse_times(path: Path, cells: pd.Series, schema: Schema | None, numbers: NumberForm) -> pd.Series:
    """Parse times to seconds since 1970 UTC; NaN where a cell is empty.

    Raises DataError for the first cell that is no time.
    """
    form, zone = (None, None) if schema is None else (schema.time_format, schema.time_zone)
    seconds, empty = exact_seconds_column(cells, form, zone, numbers)
    bad = ~empty & ~((seconds >= 0) & (seconds < LATEST + 1))
    if bad.any():
        worst, early = cells.iloc[int(bad.argmax())], bool(seconds[bad.argmax()] < 0)
        what = f"{str(worst)!r} is {'a time before 1970' if early else 'not a time'}: {EXPECTED}"
        raise DataError(what, file=path, line=line_of(pd.Series(bad, cells.index)), field="time")
    return pd.Series(seconds, cells.index)


def line_of(bad: pd.Series) -> int:
    """Return the line of the first bad row; in Parquet the row's number, from 1."""
    return int(bad.index[int(bad.to_numpy().argmax())])
