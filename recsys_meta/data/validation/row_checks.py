"""Checks of rows, a whole column at a time; each error has its line, field, reason and remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from recsys_meta.core.arrays import FloatArray, IntArray
from recsys_meta.core.cells import (
    MISSING_NUMBERS,
    Mask,
    category_cells,
    id_cells,
    parse_labels,
    parse_numbers,
    text_cells,
)
from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import LATITUDE, LONGITUDE, FeatureField, Schema
from recsys_meta.data.readers.raw_tables import REJECT_COLUMNS, RowChunk, reject_rows
from recsys_meta.data.readers.time_columns import BEFORE_1970, INVALID_TIME, NumberForm, microseconds_column

DEGREE_LIMITS = {LATITUDE: 90, LONGITUDE: 180}
"""Largest absolute value of the numeric features of these names."""

SKIP_REMEDY = "Correct the row, or leave such rows out with --on-error skip, which lists them in rejects.csv"


@dataclass(frozen=True)
class ValidRows:
    """Valid rows: ids as text, label float32, time in microseconds or NO_TIME, and their lines; each [n].

    context: name -> stripped text [n], or float32 [n] with NaN where missing.
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
    """Rejected rows of one chunk; a row is rejected once, for its first error."""

    def __init__(self, chunk: RowChunk) -> None:
        self._chunk = chunk
        self._rejected: Mask = np.zeros(len(chunk.frame), bool)
        self._parts = [chunk.rejects]

    def reject(
        self, mask: Mask, field: str, reason: str | pd.Series, remedy: str, cells: pd.Series | None = None
    ) -> None:
        """Reject the rows of `mask` [n] for an error in `field`.

        `reason` is one text, or a series [n] of them; with `cells` [n] it follows the quoted cell of the row.
        """
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
        """Mask [n] of rows that are not rejected."""
        return ~self._rejected

    def table(self) -> pd.DataFrame:
        """Return all rejected rows in order of line, those that the reader rejected included."""
        parts = [p for p in self._parts if len(p)] or self._parts[:1]
        return pd.concat(parts).sort_values("line", kind="stable")[list(REJECT_COLUMNS)].reset_index(drop=True)


def check_events(
    schema: Schema, chunk: RowChunk, homes: pd.Series | None = None, numbers: NumberForm | None = None
) -> tuple[ValidRows, pd.DataFrame]:
    """Check a chunk of events; return its valid rows and its rejected ones.

    `homes` are the entities of the items, as `read_homes` returns them; rows of another entity are then rejected.
    `numbers` is the form of the numbers that are times, shared by the chunks of a file.
    Raises DataError if a column of ids has a type that cannot hold ids.
    """
    errors, frame = RowErrors(chunk), chunk.frame
    entity = _id_column(chunk, schema.entity, errors)
    item = _id_column(chunk, schema.item, errors)
    actor = _id_column(chunk, schema.actor, errors) if schema.actor else None
    group = _id_column(chunk, schema.group, errors) if schema.group else None
    label = _label_column(schema, frame, errors)
    time = _time_column(schema, frame, errors, numbers)
    context = {f.name: _context_column(f, frame, errors) for f in schema.context}
    if homes is not None:
        _check_homes(schema, entity, item, homes, errors)
    good = errors.good
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
    return rows, errors.table()


def _context_column(feature: FeatureField, frame: pd.DataFrame, errors: RowErrors) -> pd.Series | FloatArray:
    cells = frame[feature.source]
    if feature.kind == "numeric":
        return _numeric_column(feature, cells, errors)
    return category_cells(cells)


def _numeric_column(feature: FeatureField, cells: pd.Series, errors: RowErrors) -> FloatArray:
    """Read a numeric feature [n], NaN where it is missing; reject cells that are not finite numbers."""
    number, empty = parse_numbers(cells)
    missing = empty.copy()
    unread = np.flatnonzero(np.isnan(number) & ~empty)
    if len(unread):
        missing[unread] = text_cells(cells.iloc[unread]).str.lower().isin(MISSING_NUMBERS).to_numpy(bool)
    with np.errstate(over="ignore"):
        value = number.astype(np.float32)
    invalid = ~np.isfinite(value) & ~missing
    remedy = f"Leave it empty if unknown. {SKIP_REMEDY}"
    errors.reject(invalid, feature.source, "is not a finite number", remedy, cells)
    return np.where(missing, np.float32(np.nan), value)


def _check_homes(schema: Schema, entity: pd.Series, item: pd.Series, homes: pd.Series, errors: RowErrors) -> None:
    """Reject rows whose item has another entity as its home, or none: it is not in the catalogue of the entity."""
    home = homes.reindex(item).fillna("").set_axis(item.index)
    remedy = f"Give every item its home in the item feature '{schema.home}'. {SKIP_REMEDY}"
    errors.reject((home == "").to_numpy(bool), schema.item, f"has no home ('{schema.home}' is empty)", remedy, item)
    reason = "'" + item.str[:80] + "' is at home in '" + home.str[:80] + "', not in '" + entity.str[:80] + "'"
    remedy = f"Give the row the {schema.entity} of its {schema.item}. {SKIP_REMEDY}"
    errors.reject((home != entity).to_numpy(bool), schema.item, reason, remedy)


def _id_column(chunk: RowChunk, column: str, errors: RowErrors) -> pd.Series:
    cells = chunk.frame[column]
    try:
        text = id_cells(cells)
    except ValueError as error:
        remedy = "Store ids as text or whole numbers"
        raise DataError(str(error), file=chunk.file, field=column, remedy=remedy) from None
    errors.reject((text == "").to_numpy(bool), column, "is empty", f"Every row needs an id. {SKIP_REMEDY}")
    return text


def _label_column(schema: Schema, frame: pd.DataFrame, errors: RowErrors) -> FloatArray:
    if schema.label is None:
        return np.ones(len(frame), np.float32)
    cells, column = frame[schema.label], schema.label
    words = schema.label_values
    number, empty = parse_labels(cells, words)
    errors.reject(empty, column, "is empty", SKIP_REMEDY)
    what = f"is none of {', '.join(words)}, and is not a number" if words else "is not a number"
    errors.reject(np.isnan(number), column, what, SKIP_REMEDY, cells)
    with np.errstate(over="ignore"):
        label = number.astype(np.float32)
    errors.reject(~np.isfinite(label), column, "is not a finite number", SKIP_REMEDY, cells)
    if schema.label_range:
        low, high = schema.label_range
        outside = (number < low) | (number > high)
        remedy = f"{SKIP_REMEDY}; or widen label_range in the schema"
        errors.reject(outside, column, f"is outside {low:g} to {high:g}", remedy, cells)
    if schema.objective == "click":
        errors.reject(~np.isin(number, (0, 1)), column, "is neither 0 nor 1", SKIP_REMEDY, cells)
    return label


def _time_column(schema: Schema, frame: pd.DataFrame, errors: RowErrors, numbers: NumberForm | None) -> IntArray:
    if schema.time is None:
        return np.full(len(frame), NO_TIME)
    cells, column = frame[schema.time], schema.time
    time = microseconds_column(cells, schema.time_format, schema.time_zone, numbers)
    if schema.exact_time:
        remedy = f"{SKIP_REMEDY}; or set exact_time = false in the schema if times may be missing"
        errors.reject(time == NO_TIME, column, "is empty", remedy)
    remedy = f"Give ISO 8601 or seconds since 1970 UTC, or say time_format in the schema. {SKIP_REMEDY}"
    errors.reject(time == INVALID_TIME, column, "is not a time", remedy, cells)
    errors.reject(time == BEFORE_1970, column, "is a time before 1970", remedy, cells)
    return time


def check_features(key: str, fields: tuple[FeatureField, ...], chunk: RowChunk) -> tuple[RowChunk, pd.DataFrame]:
    """Check a chunk of a feature table; return its valid rows, with stripped ids in the column `key`, and its rejected
    ones. Raises DataError if the column of ids has a type that cannot hold ids."""
    errors, frame = RowErrors(chunk), chunk.frame
    ids = _id_column(chunk, key, errors)
    for feature in fields:
        if feature.kind == "numeric":
            cells, limit = frame[feature.source], DEGREE_LIMITS.get(feature.name, np.inf)
            outside = np.abs(_numeric_column(feature, cells, errors)) > limit  # False for NaN
            remedy = f"Give degrees, or leave it empty if unknown. {SKIP_REMEDY}"
            errors.reject(outside, feature.source, f"is outside -{limit:g} to {limit:g}", remedy, cells)
    good = errors.good
    valid = frame.assign(**{key: ids})[good].reset_index(drop=True)
    return RowChunk(chunk.file, valid, chunk.lines[good], fraction=chunk.fraction), errors.table()


def check_unique_ids(key: str, table: RowChunk, inline: bool) -> pd.DataFrame:
    """Return as rejected the rows of a whole feature table whose id an earlier row has."""
    errors = RowErrors(table)
    ids = table.frame[key]
    reason = "has other features in an earlier row" if inline else "is the id of an earlier row too"
    remedy = f"Give each id one set of features. {SKIP_REMEDY}"
    errors.reject(ids.duplicated().to_numpy(bool), key, reason, remedy, ids)
    return errors.table()
