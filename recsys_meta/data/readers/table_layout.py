"""Layouts of events other than one a row: a column for each item, or a list of items in a row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from recsys_meta.core.cells import LIST_MARK, list_values, parse_numbers, text_cells
from recsys_meta.data.readers.raw_tables import ReadChunks, RowChunk, map_chunks


def split_lines(read: ReadChunks, column: str, names: Sequence[str], separator: str) -> ReadChunks:
    """Return a reader of lines as columns: the first parts under these names but the last, the rest of the line, as a
    list, under the last."""

    def split(chunk: RowChunk) -> RowChunk:
        parts = [[p for p in line.strip().split(separator) if p] for line in chunk.frame[column].astype("str")]
        head = len(names) - 1
        columns: dict[str, list[str]] = {
            n: [p[i] if i < len(p) else "" for p in parts] for i, n in enumerate(names[:-1])
        }
        columns[names[-1]] = [LIST_MARK + LIST_MARK.join(p[head:]) for p in parts]
        return replace(chunk, frame=pd.DataFrame(columns, dtype="str"))

    return map_chunks(read, split)


def explode_lists(
    read: ReadChunks, item: str, others: Sequence[str], separator: str, pair: tuple[str, str] | None = None
) -> ReadChunks:
    """Return a reader with a row for each item of a list in the column `item`.

    `others` are columns that may hold lists too, of the same length (labels, times); a single value holds for all. With
    `pair`, a separator and a column, an item is written with its label ("50:4"), which goes to that column.
    """

    def explode(chunk: RowChunk) -> RowChunk:
        frame = chunk.frame
        lists = {c: [_parts(cell, separator) for cell in text_cells(frame[c])] for c in (item, *others)}
        counts = np.array([len(parts) for parts in lists[item]], np.int64)
        row = np.repeat(np.arange(len(frame)), counts)
        events = frame.iloc[row].reset_index(drop=True)
        events = events.assign(**{item: pd.Series([p for parts in lists[item] for p in parts], dtype="str")})
        for column in others:
            cells = [
                parts if len(parts) == n else parts[:1] * n if len(parts) == 1 else [""] * n
                for parts, n in zip(lists[column], counts.tolist(), strict=True)
            ]
            events = events.assign(**{column: pd.Series([c for part in cells for c in part], dtype="str")})
        if pair is not None:
            halves = events[item].str.rpartition(pair[0])
            events = events.assign(**{item: halves[0].where(halves[1] != "", halves[2]), pair[1]: halves[2]})
        return replace(chunk, frame=events, lines=chunk.lines[row])

    return map_chunks(read, explode)


def _parts(cell: str, separator: str) -> list[str]:
    return [text for part in list_values(cell, separator) if (text := part.strip())]


def melt_columns(
    read: ReadChunks, items: Sequence[str], item: str, label: str | None, missing: Collection[str]
) -> ReadChunks:
    """Return a reader with a row for each cell of the columns `items`, whose names are the items.

    Empty cells and those that are `missing` are no events, nor are zeros where there is no label. The cell goes to the
    column `label`.
    """
    absent = {"", *missing}

    def melt(chunk: RowChunk) -> RowChunk:
        frame = chunk.frame
        rest = frame[[c for c in frame.columns if c not in set(items)]]
        parts = []
        for name in items:
            cells = text_cells(frame[name])
            number, _ = parse_numbers(cells)
            is_absent = cells.isin(absent).to_numpy(bool) | np.isin(number, _numbers(missing))
            present = np.flatnonzero(~is_absent & ~((label is None) & (number == 0)))
            events = rest.iloc[present].assign(
                **{item: name}, **({} if label is None else {label: cells.iloc[present]})
            )
            parts.append(events.assign(_row=present))
        whole = pd.concat(parts, ignore_index=True).sort_values("_row", kind="stable", ignore_index=True)
        row = whole.pop("_row").to_numpy(np.int64)
        return replace(chunk, frame=whole, lines=chunk.lines[row])

    return map_chunks(read, melt)


def _numbers(texts: Collection[str]) -> list[float]:
    number, _ = parse_numbers(pd.Series(list(texts), dtype="str"))
    return [float(n) for n in number if not np.isnan(n)]


def number_rows(read: ReadChunks, column: str) -> ReadChunks:
    """Return a reader that adds a column with the number of each row, from 1, rows that were refused included."""

    def read_numbered(block: int) -> Iterator[RowChunk]:
        first: int | None = None
        for chunk in read(block):
            lines = np.concatenate([chunk.lines, chunk.rejects["line"].to_numpy(np.int64)])
            if first is None:
                first = int(lines.min()) if len(lines) else None
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
