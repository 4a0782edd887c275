"""Columns of times, read as seconds since 1970 UTC by the rule of `recsys_meta.core.time_parsing`."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.time_parsing import LATEST, PER_SECOND, UNITS
from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.data.readers.cells import Mask, parse_numbers

INVALID_TIME = -2
"""Marks a cell that is not a time."""

BEFORE_1970 = -1
"""Marks a time before 1970."""

_UNITS, _PER_SECOND = np.array(UNITS), np.array(PER_SECOND)
_RELATIVE_WORDS = ("now", "today")  # pandas reads them as times


def seconds_column(cells: pd.Series) -> IntArray:
    """Read cells [n] as whole seconds [n] int64.

    Empty cells become NO_TIME, times before 1970 BEFORE_1970, and cells that are not times INVALID_TIME.
    """
    exact, empty = exact_seconds_column(cells)
    usable = (exact >= 0) & (exact < LATEST + 1)
    time = np.where(usable, np.floor(np.where(usable, exact, 0)).astype(np.int64), INVALID_TIME)
    time[exact < 0] = BEFORE_1970
    time[empty] = NO_TIME
    return time


def exact_seconds_column(cells: pd.Series) -> tuple[FloatArray, Mask]:
    """Read cells [n] as seconds [n] float64 with their fractions; also return the mask [n] of empty cells.

    Numbers, texts of numbers, ISO 8601 texts (UTC unless they name a zone) and datetimes are read. A cell that is not
    a time becomes NaN, a time before 1970 a negative number.
    """
    if pd.api.types.is_datetime64_any_dtype(cells.dtype):
        return _datetime_seconds(pd.to_datetime(cells, utc=True)), cells.isna().to_numpy(bool)
    if not pd.api.types.is_numeric_dtype(cells):
        cells = cells.astype("str").fillna("")
    number, empty = parse_numbers(cells)
    time = _number_seconds(number)
    texts = np.flatnonzero(np.isnan(number) & ~empty)
    if len(texts):
        time[texts] = _text_seconds(cells.iloc[texts].astype("str").str.strip())
    return time, empty


def _number_seconds(numbers: FloatArray) -> FloatArray:
    """Convert numbers [n] to seconds [n]; the array form of `time_parsing.scalar_seconds`."""
    unit = np.searchsorted(_UNITS, numbers, side="right")
    usable = (unit < len(_UNITS)) & np.isfinite(numbers)
    return np.where(usable, numbers / _PER_SECOND[np.minimum(unit, len(_UNITS) - 1)], np.nan)


def _text_seconds(texts: pd.Series) -> FloatArray:
    """Convert ISO 8601 texts [n] to seconds [n], exact to microseconds; NaN where a text is not a time."""
    seconds = _datetime_seconds(pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce"))
    seconds[texts.isin(_RELATIVE_WORDS).to_numpy(bool)] = np.nan
    # Python reads a few forms that pandas does not. They are rare, so a loop over them is cheap enough.
    for row in np.flatnonzero(np.isnan(seconds) & texts.notna().to_numpy(bool)):
        seconds[row] = _iso_seconds(str(texts.iloc[row]))
    return seconds


def _datetime_seconds(datetimes: pd.Series) -> FloatArray:
    """Convert datetimes [n] with a time zone to seconds [n]; NaN for NaT."""
    # In microseconds, which hold every year from 1 to 9999; nanoseconds end in 2262.
    ticks = datetimes.dt.tz_convert(None).to_numpy("datetime64[us]")
    seconds: FloatArray = np.where(np.isnat(ticks), np.nan, ticks.astype(np.int64) / 1e6)
    return seconds


def _iso_seconds(text: str) -> float:
    """Convert one ISO 8601 text, UTC unless it names a zone; NaN where it is not a time."""
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
