"""Checks of rows, a whole column at a time: what is wrong, on which line, in which field, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from recsys_meta.data.cells import Mask, numbers
from recsys_meta.data.tables import REJECT, Chunk, rejects_of
from recsys_meta.data.times import BAD, NEGATIVE, seconds
from recsys_meta.dataset import NO_TIME
from recsys_meta.errors import DataError
from recsys_meta.schema import FeatureField, Schema
from recsys_meta.types import FloatArray, IntArray

MISSING = ("nan", "na", "null")
"""Words that mean an empty number, as in `features.encode`."""

SKIP = "Correct the row, or leave such rows out with --on-error skip, which lists them in rejects.csv"


@dataclass(frozen=True)
class GoodRows:
    """Rows that passed: ids as text, label float32, time in seconds or NO_TIME, and their lines; each [n]."""

    entity: pd.Series
    item: pd.Series
    label: FloatArray
    time: IntArray
    lines: IntArray


class _Refusals:
    """Bad rows of one chunk; a row is refused once, for the first thing found wrong."""

    def __init__(self, chunk: Chunk) -> None:
        self._chunk = chunk
        self._bad: Mask = np.zeros(len(chunk.frame), bool)
        self._parts = [chunk.rejects]

    def refuse(self, mask: Mask, field: str, reason: str, remedy: str, cells: pd.Series | None = None) -> None:
        """Refuse the rows of `mask`; the reason is preceded by the offending cell where cells are given."""
        new = np.flatnonzero(mask & ~self._bad)
        if not len(new):
            return
        self._bad[new] = True
        text: object = reason
        if cells is not None:
            text = [f"{str(c)[:80]!r} {reason}" for c in cells.iloc[new]]
        rows = self._chunk.frame.iloc[new].astype("string").fillna("").agg(",".join, axis=1)
        self._parts.append(rejects_of(self._chunk.lines[new], field, text, remedy, rows.to_list()))

    @property
    def good(self) -> Mask:
        return ~self._bad

    def table(self) -> pd.DataFrame:
        """All refused rows in order of line."""
        parts = [p for p in self._parts if len(p)] or self._parts[:1]
        return pd.concat(parts).sort_values("line", kind="stable")[list(REJECT)].reset_index(drop=True)


def check_events(schema: Schema, chunk: Chunk) -> tuple[GoodRows, pd.DataFrame]:
    """The good rows of a chunk of events, and the bad ones with reasons.

    Raises DataError where a whole column has a type that cannot hold ids.
    """
    refusals, frame = _Refusals(chunk), chunk.frame
    entity = _ids(chunk, schema.entity, refusals)
    item = _ids(chunk, schema.item, refusals)
    label = _labels(schema, frame, refusals)
    time = _times(schema, frame, refusals)
    good = refusals.good
    rows = GoodRows(entity[good], item[good], label[good], time[good], chunk.lines[good])
    return rows, refusals.table()


def _ids(chunk: Chunk, column: str, refusals: _Refusals) -> pd.Series:
    cells = chunk.frame[column]
    if pd.api.types.is_float_dtype(cells):
        raise DataError(
            "the column holds fractional numbers, so its ids cannot be read safely",
            file=chunk.file,
            field=column,
            remedy="Store ids as text or whole numbers",
        )
    text = cells.astype("str").str.strip()
    refusals.refuse((text == "").to_numpy(bool), column, "is empty", f"Every row needs an id. {SKIP}")
    return text


def _labels(schema: Schema, frame: pd.DataFrame, refusals: _Refusals) -> FloatArray:
    if schema.label is None:
        return np.ones(len(frame), np.float32)
    cells, column = frame[schema.label], schema.label
    number, empty = numbers(cells)
    refusals.refuse(empty, column, "is empty", SKIP)
    refusals.refuse(np.isnan(number), column, "is not a number", SKIP, cells)
    with np.errstate(over="ignore"):
        label = number.astype(np.float32)
    refusals.refuse(~np.isfinite(label), column, "is not a finite number", SKIP, cells)
    if schema.label_range:
        low, high = schema.label_range
        outside = (number < low) | (number > high)
        remedy = f"{SKIP}; or widen label_range in the schema"
        refusals.refuse(outside, column, f"is outside {low:g} to {high:g}", remedy, cells)
    if schema.objective == "click":
        refusals.refuse(~np.isin(number, (0, 1)), column, "is neither 0 nor 1", SKIP, cells)
    return label


def _times(schema: Schema, frame: pd.DataFrame, refusals: _Refusals) -> IntArray:
    if schema.time is None:
        return np.full(len(frame), NO_TIME)
    cells, column = frame[schema.time], schema.time
    time = seconds(cells)
    if schema.exact_time:
        remedy = f"{SKIP}; or set exact_time = false in the schema if times may be missing"
        refusals.refuse(time == NO_TIME, column, "is empty", remedy)
    remedy = f"Give ISO 8601 or seconds since 1970 UTC. {SKIP}"
    refusals.refuse(time == BAD, column, "is not a time", remedy, cells)
    refusals.refuse(time == NEGATIVE, column, "is a time before 1970", remedy, cells)
    return time


def check_side(key: str, fields: tuple[FeatureField, ...], chunk: Chunk) -> tuple[Chunk, pd.DataFrame]:
    """The good rows of a feature table, and the bad ones with reasons. `key` holds stripped ids afterwards."""
    refusals, frame = _Refusals(chunk), chunk.frame
    ids = _ids(chunk, key, refusals)
    for field in fields:
        if field.kind == "numeric":
            cells = frame[field.source]
            number, empty = numbers(cells)
            missing = empty | cells.astype("str").str.strip().str.lower().isin(MISSING).to_numpy(bool)
            with np.errstate(over="ignore"):
                bad = ~np.isfinite(number.astype(np.float32)) & ~missing
            refusals.refuse(bad, field.source, "is not a finite number", f"Leave it empty if unknown. {SKIP}", cells)
    good = refusals.good
    kept = frame.assign(**{key: ids})[good].reset_index(drop=True)
    return Chunk(chunk.file, kept, chunk.lines[good], done=chunk.done), refusals.table()


def check_unique(key: str, table: Chunk, inline: bool) -> pd.DataFrame:
    """Rows of a whole feature table whose id an earlier row has."""
    refusals = _Refusals(table)
    ids = table.frame[key]
    reason = "has other features in an earlier row" if inline else "is the id of an earlier row too"
    remedy = f"Give each id one set of features. {SKIP}"
    refusals.refuse(ids.duplicated().to_numpy(bool), key, reason, remedy, ids)
    return refusals.table()
