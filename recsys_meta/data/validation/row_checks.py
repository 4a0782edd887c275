"""Checks of rows, a whole column at a time: what is wrong, on which line, in which field, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import LATITUDE, LONGITUDE, FeatureField, Schema
from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.data.readers.cells import Mask, parse_numbers
from recsys_meta.data.readers.raw_tables import REJECT_COLUMNS, RowChunk, reject_rows
from recsys_meta.data.readers.time_columns import BEFORE_1970, INVALID_TIME, seconds_column

MISSING_NUMBERS = ("nan", "na", "null")
"""Words that mean an empty number, as in `features.encode`."""

DEGREE_LIMITS = {LATITUDE: 90, LONGITUDE: 180}
"""How far numeric features of these names reach on either side of zero."""

SKIP_REMEDY = "Correct the row, or leave such rows out with --on-error skip, which lists them in rejects.csv"


@dataclass(frozen=True)
class ValidRows:
    """Rows that passed: ids as text, label float32, time in seconds or NO_TIME, and their lines; each [n].

    context: name -> stripped text, or float32 with NaN for what is missing.
    """

    entity: pd.Series
    item: pd.Series
    label: FloatArray
    time: IntArray
    lines: IntArray
    actor: pd.Series | None = None
    group: pd.Series | None = None
    context: Mapping[str, pd.Series | FloatArray] = field(default_factory=dict)


class RowErrors:
    """Bad rows of one chunk; a row is refused once, for the first thing found wrong."""

    def __init__(self, chunk: RowChunk) -> None:
        self._chunk = chunk
        self._rejected: Mask = np.zeros(len(chunk.frame), bool)
        self._parts = [chunk.rejects]

    def reject(
        self, mask: Mask, field: str, reason: str | pd.Series, remedy: str, cells: pd.Series | None = None
    ) -> None:
        """Refuse the rows of `mask`; the reason (one, or one for each row) follows the offending cell if given."""
        new = np.flatnonzero(mask & ~self._rejected)
        if not len(new):
            return
        self._rejected[new] = True
        text: object = reason if isinstance(reason, str) else reason.iloc[new].to_list()
        if cells is not None:
            text = [f"{str(c)[:80]!r} {reason}" for c in cells.iloc[new]]
        rows = self._chunk.frame.iloc[new].astype("string").fillna("").agg(",".join, axis=1)
        self._parts.append(reject_rows(self._chunk.lines[new], field, text, remedy, rows.to_list()))

    @property
    def good(self) -> Mask:
        return ~self._rejected

    def table(self) -> pd.DataFrame:
        """All refused rows in order of line."""
        parts = [p for p in self._parts if len(p)] or self._parts[:1]
        return pd.concat(parts).sort_values("line", kind="stable")[list(REJECT_COLUMNS)].reset_index(drop=True)


def check_events(schema: Schema, chunk: RowChunk, home: pd.Series | None = None) -> tuple[ValidRows, pd.DataFrame]:
    """The good rows of a chunk of events, and the bad ones with reasons.

    `home`: the entity that each item (its index) belongs to, where rows of other entities are to be refused.
    Raises DataError where a whole column has a type that cannot hold ids.
    """
    refusals, frame = RowErrors(chunk), chunk.frame
    entity = _id_column(chunk, schema.entity, refusals)
    item = _id_column(chunk, schema.item, refusals)
    actor = _id_column(chunk, schema.actor, refusals) if schema.actor else None
    group = _id_column(chunk, schema.group, refusals) if schema.group else None
    label = _label_column(schema, frame, refusals)
    time = _time_column(schema, frame, refusals)
    context = {f.name: _context_column(f, frame, refusals) for f in schema.context}
    if home is not None:
        _check_home(schema, entity, item, home, refusals)
    good = refusals.good
    rows = ValidRows(
        entity[good],
        item[good],
        label[good],
        time[good],
        chunk.lines[good],
        None if actor is None else actor[good],
        None if group is None else group[good],
        {name: cells[good] for name, cells in context.items()},
    )
    return rows, refusals.table()


def _context_column(of: FeatureField, frame: pd.DataFrame, refusals: RowErrors) -> pd.Series | FloatArray:
    cells = frame[of.source]
    if of.kind == "numeric":
        return _numeric_column(of, cells, refusals)
    return cells.astype("string").fillna("").astype("str").str.strip()


def _numeric_column(of: FeatureField, cells: pd.Series, refusals: RowErrors) -> FloatArray:
    """A numeric feature [n], NaN where it is missing; other cells that are no numbers are refused."""
    number, empty = parse_numbers(cells)
    missing = empty | cells.astype("str").str.strip().str.lower().isin(MISSING_NUMBERS).to_numpy(bool)
    with np.errstate(over="ignore"):
        value = number.astype(np.float32)
    bad = ~np.isfinite(value) & ~missing
    refusals.reject(bad, of.source, "is not a finite number", f"Leave it empty if unknown. {SKIP_REMEDY}", cells)
    return np.where(missing, np.float32(np.nan), value)


def _check_home(schema: Schema, entity: pd.Series, item: pd.Series, home: pd.Series, refusals: RowErrors) -> None:
    """Refuse rows whose item is at home in another entity, or nowhere: no catalogue would have it."""
    at = home.reindex(item).fillna("").set_axis(item.index)
    remedy = f"Give every item its home in the item feature '{schema.home}'. {SKIP_REMEDY}"
    refusals.reject((at == "").to_numpy(bool), schema.item, f"has no home ('{schema.home}' is empty)", remedy, item)
    away = (at != entity).to_numpy(bool)
    told = "'" + item.str[:80] + "' is at home in '" + at.str[:80] + "', not in '" + entity.str[:80] + "'"
    refusals.reject(away, schema.item, told, f"Give the row the {schema.entity} of its {schema.item}. {SKIP_REMEDY}")


def _id_column(chunk: RowChunk, column: str, refusals: RowErrors) -> pd.Series:
    cells = chunk.frame[column]
    if pd.api.types.is_float_dtype(cells):
        raise DataError(
            "the column holds fractional numbers, so its ids cannot be read safely",
            file=chunk.file,
            field=column,
            remedy="Store ids as text or whole numbers",
        )
    text = cells.astype("str").str.strip()
    refusals.reject((text == "").to_numpy(bool), column, "is empty", f"Every row needs an id. {SKIP_REMEDY}")
    return text


def _label_column(schema: Schema, frame: pd.DataFrame, refusals: RowErrors) -> FloatArray:
    if schema.label is None:
        return np.ones(len(frame), np.float32)
    cells, column = frame[schema.label], schema.label
    number, empty = parse_numbers(cells)
    refusals.reject(empty, column, "is empty", SKIP_REMEDY)
    refusals.reject(np.isnan(number), column, "is not a number", SKIP_REMEDY, cells)
    with np.errstate(over="ignore"):
        label = number.astype(np.float32)
    refusals.reject(~np.isfinite(label), column, "is not a finite number", SKIP_REMEDY, cells)
    if schema.label_range:
        low, high = schema.label_range
        outside = (number < low) | (number > high)
        remedy = f"{SKIP_REMEDY}; or widen label_range in the schema"
        refusals.reject(outside, column, f"is outside {low:g} to {high:g}", remedy, cells)
    if schema.objective == "click":
        refusals.reject(~np.isin(number, (0, 1)), column, "is neither 0 nor 1", SKIP_REMEDY, cells)
    return label


def _time_column(schema: Schema, frame: pd.DataFrame, refusals: RowErrors) -> IntArray:
    if schema.time is None:
        return np.full(len(frame), NO_TIME)
    cells, column = frame[schema.time], schema.time
    time = seconds_column(cells)
    if schema.exact_time:
        remedy = f"{SKIP_REMEDY}; or set exact_time = false in the schema if times may be missing"
        refusals.reject(time == NO_TIME, column, "is empty", remedy)
    remedy = f"Give ISO 8601 or seconds since 1970 UTC. {SKIP_REMEDY}"
    refusals.reject(time == INVALID_TIME, column, "is not a time", remedy, cells)
    refusals.reject(time == BEFORE_1970, column, "is a time before 1970", remedy, cells)
    return time


def check_features(key: str, fields: tuple[FeatureField, ...], chunk: RowChunk) -> tuple[RowChunk, pd.DataFrame]:
    """The good rows of a feature table, and the bad ones with reasons. `key` holds stripped ids afterwards."""
    refusals, frame = RowErrors(chunk), chunk.frame
    ids = _id_column(chunk, key, refusals)
    for feature in fields:
        if feature.kind == "numeric":
            cells, reach = frame[feature.source], DEGREE_LIMITS.get(feature.name, np.inf)
            away = np.abs(_numeric_column(feature, cells, refusals)) > reach  # not so for NaN
            remedy = f"Give degrees, or leave it empty if unknown. {SKIP_REMEDY}"
            refusals.reject(away, feature.source, f"is outside -{reach:g} to {reach:g}", remedy, cells)
    good = refusals.good
    kept = frame.assign(**{key: ids})[good].reset_index(drop=True)
    return RowChunk(chunk.file, kept, chunk.lines[good], fraction=chunk.fraction), refusals.table()


def check_unique_ids(key: str, table: RowChunk, inline: bool) -> pd.DataFrame:
    """Rows of a whole feature table whose id an earlier row has."""
    refusals = RowErrors(table)
    ids = table.frame[key]
    reason = "has other features in an earlier row" if inline else "is the id of an earlier row too"
    remedy = f"Give each id one set of features. {SKIP_REMEDY}"
    refusals.reject(ids.duplicated().to_numpy(bool), key, reason, remedy, ids)
    return refusals.table()
