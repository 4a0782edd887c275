"""Layouts of events other than one a row: a column for each item, or a list of items in a row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from recsys_meta.core.arrays import IntArray
from recsys_meta.core.cells import LIST_MARK, list_values, parse_numbers, text_cells
from recsys_meta.data.readers.raw_tables import ReadChunks, RowChunk, map_chunks, reject_rows, select_rows

LENGTH_REMEDY = "Give the list one value for each item, or a single one that holds for all of them"


def split_lines(read: ReadChunks, column: str, names: Sequence[str], separator: str) -> ReadChunks:
    """Return a reader of lines as columns: the first cells under these names but the last, the rest of the line, as a
    list, under the last."""
    head = len(names) - 1

    def split(chunk: RowChunk) -> RowChunk:
        lines = [split_line(line, separator, head) for line in chunk.frame[column].astype("str")]
        columns = {name: [cells[i] for cells in lines] for i, name in enumerate(names[:-1])}
        columns[names[-1]] = [LIST_MARK + LIST_MARK.join(cells[head:]) for cells in lines]
        return replace(chunk, frame=pd.DataFrame(columns, dtype="str"))

    return map_chunks(read, split)


def split_line(line: str, separator: str, head: int) -> list[str]:
    """Split a line into its first `head` cells, empty ones too, and the values of the rest, without empty ones.

    Several blanks in a row separate like one, so cells that are separated by blanks are never empty.
    """
    if separator == " ":
        parts = [part for part in line.split(" ") if part]
        return [*parts[:head], *[""] * (head - len(parts)), *parts[head:]]
    cells = line.split(separator, head)
    first = [cell.strip() for cell in cells[:head]]
    rest = cells[head].split(separator) if len(cells) > head else []
    return [*first, *[""] * (head - len(first)), *[text for value in rest if (text := value.strip())]]


def explode_lists(
    read: ReadChunks, item: str, others: Sequence[str], separator: str, pair: tuple[str, str] | None = None
) -> ReadChunks:
    """Return a reader with a row for each item of a list in the column `item`.

    `others` are columns that may hold lists too, of the same length (labels, times); a single value holds for all, and
    an empty cell is empty for all. Rows with lists of other lengths are rejected. With `pair`, a separator and a
    column, an item is written with its label ("50:4"), which goes to that column, empty for an item without one.
    """

    def explode(chunk: RowChunk) -> RowChunk:
        lists = {c: [_parts(cell, separator) for cell in text_cells(chunk.frame[c])] for c in (item, *others)}
        good, rejects = _even_rows(chunk, lists, item)
        row = np.repeat(good, np.array([len(lists[item][i]) for i in good], np.int64))
        events = select_rows(chunk, row).frame
        events = events.assign(**{item: _texts(part for i in good for part in lists[item][i])})
        for column in others:
            cells = (_spread(lists[column][i], len(lists[item][i])) for i in good)
            events = events.assign(**{column: _texts(cell for part in cells for cell in part)})
        if pair is not None:
            events = events.assign(**_split_pairs(events[item], pair[0], item, pair[1]))
        return replace(chunk, frame=events, lines=chunk.lines[row], rejects=rejects)

    return map_chunks(read, explode)


def _even_rows(chunk: RowChunk, lists: Mapping[str, list[list[str]]], item: str) -> tuple[IntArray, pd.DataFrame]:
    """Return the rows whose lists go together with that of the items, and the rejects of the chunk with the others."""
    is_even, rejects = np.ones(len(chunk.frame), bool), [chunk.rejects]
    counts = {column: np.array([len(parts) for parts in cells], np.int64) for column, cells in lists.items()}
    for column, count in counts.items():
        rows = np.flatnonzero(is_even & (count > 1) & (count != counts[item]))
        is_even[rows] = False
        reasons = [f"has {count[i]} values where '{item}' has {counts[item][i]}" for i in rows]
        texts = [",".join(text_cells(chunk.frame.iloc[i]).str.replace(LIST_MARK, "|")) for i in rows]
        rejects.append(reject_rows(chunk.lines[rows], column, reasons, LENGTH_REMEDY, texts))
    filled = [part for part in rejects if len(part)]
    return np.flatnonzero(is_even), pd.concat(filled, ignore_index=True) if filled else chunk.rejects


def _texts(values: Iterable[str]) -> pd.Series:
    return pd.Series(list(values), dtype="str")


def _spread(values: list[str], count: int) -> list[str]:
    """Return the values of `count` items: one each, or one for all, empty without any."""
    return values if len(values) == count else (values or [""]) * count


def _split_pairs(cells: pd.Series, separator: str, item: str, label: str) -> dict[str, pd.Series]:
    halves = cells.str.rpartition(separator)
    has_label = halves[1] != ""
    return {item: halves[0].where(has_label, cells).str.strip(), label: halves[2].where(has_label, "").str.strip()}


def _parts(cell: str, separator: str) -> list[str]:
    return [text for part in list_values(cell, separator) if (text := part.strip())]


def melt_columns(
    read: ReadChunks, items: Sequence[str], item: str, label: str | None, missing: Collection[str]
) -> ReadChunks:
    """Return a reader with a row for each cell of the columns `items`, whose names are the items.

    Empty cells and those that are `missing` are no events, nor are zeros where there is no label. The cell goes to the
    column `label`.
    """
    absent, absent_numbers = {"", *missing}, _numbers(missing)
    names = pd.array(list(items), dtype="str")

    def melt(chunk: RowChunk) -> RowChunk:
        cells = _row_by_row(chunk.frame[list(items)])
        number, _ = parse_numbers(cells)
        is_absent = cells.isin(absent).to_numpy(bool) | np.isin(number, absent_numbers)
        if label is None:
            is_absent |= number == 0
        present = np.flatnonzero(~is_absent)
        row, column = np.divmod(present, len(items))
        rest = chunk.frame.drop(columns=list(items))
        events = select_rows(replace(chunk, frame=rest), row)
        values = {item: names.take(column)} | ({} if label is None else {label: cells.array.take(present)})
        return replace(events, frame=events.frame.assign(**values))

    return map_chunks(read, melt)


def _row_by_row(frame: pd.DataFrame) -> pd.Series:
    """Return the cells of a frame as text, one row after the other."""
    kinds = set(frame.dtypes)
    if len(kinds) > 1:  # each cell by its own type: as one array, 1 would become 1.0
        frame = frame.apply(text_cells)
        kinds = {pd.StringDtype(na_value=np.nan)}
    cells = frame.to_numpy().ravel()
    return text_cells(pd.Series(cells, dtype=kinds.pop()))


def _numbers(texts: Collection[str]) -> list[float]:
    number, _ = parse_numbers(pd.Series(list(texts), dtype="str"))
    return [float(n) for n in number if not np.isnan(n)]


def number_rows(read: ReadChunks, column: str, first_line: int | None = None) -> ReadChunks:
    """Return a reader that adds a column with the number of each row, from 1, rows that were refused included.

    `first_line` is the line of the row that is number 1, where blank lines count as rows; None: the first row read.
    """

    def read_numbered(block: int) -> Iterator[RowChunk]:
        first = first_line
        for chunk in read(block):
            lines = np.concatenate([chunk.lines, chunk.rejects["line"].to_numpy(np.int64)])
            if first is None and len(lines):
                first = int(lines.min())
            numbers = pd.Series(chunk.lines - (first or 1) + 1, dtype="int64").astype("str")
            yield replace(chunk, frame=chunk.frame.assign(**{column: numbers.to_numpy()}))

    return read_numbered


def read_decimal_commas(read: ReadChunks, columns: Collection[str]) -> ReadChunks:
    """Return a reader of numbers with a decimal comma, "1.234,5", in these columns."""

    def convert(chunk: RowChunk) -> RowChunk:
        events = {c: _with_points(chunk.frame[c]) for c in columns if c in chunk.frame.columns}
        return replace(chunk, frame=chunk.frame.assign(**events))

    return map_chunks(read, convert) if columns else read


def _with_points(cells: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(cells.dtype):
        return cells
    text = text_cells(cells)
    has_groups = text.str.fullmatch(r"[+-]?\d{1,3}(\.\d{3})+(,\d+)?")
    return text.mask(has_groups, text.str.replace(".", "", regex=False)).str.replace(",", ".", regex=False)
