"""Times as people write them, as seconds since 1970 UTC: one rule for request bodies, event files and raw data."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from recsys_meta.core.types import FloatArray

LATEST = 253_402_300_799
"""The last second of the year 9999; a time lies between 0 and this, whole."""

EXPECTED = "expected ISO 8601 or seconds (or milli-, micro- or nanoseconds) since 1970 UTC, up to the year 9999"

# The unit of a number is told by its size: seconds reach 1e11 in the year 5138, milliseconds do in 1973.
UNITS = np.array([1e11, 1e14, 1e17, 1e20])
"""Where each unit ends: seconds, milli-, micro-, nanoseconds."""

PER_SECOND = np.array([1.0, 1e3, 1e6, 1e9])

_RULE = tuple(zip(UNITS.tolist(), PER_SECOND.tolist(), strict=True))
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_WORDS = ("now", "today")  # pandas takes them for times


def parse_time(value: float | str, *, zoned: bool = False) -> float:
    """Seconds since 1970 UTC of a number, whose unit is told by its size, or of a text (a number or ISO 8601, UTC
    unless it says otherwise). With `zoned` a text must be ISO 8601 with a time zone. Raises ValueError."""
    seconds = _text_seconds(value, zoned) if isinstance(value, str) else _number_seconds(value)
    if math.isnan(seconds) or seconds >= LATEST + 1:
        raise ValueError(f"{_shown(value)} is not a time: {EXPECTED}")
    if seconds < 0:
        raise ValueError(f"{_shown(value)} is a time before 1970: {EXPECTED}")
    return seconds


def number_seconds(numbers: FloatArray) -> FloatArray:
    """Seconds [n] float64 of numbers [n], by the rule of `parse_time`; NaN where a number is no time. Times before 1970
    stay negative."""
    numbers = np.asarray(numbers, np.float64)
    unit = np.searchsorted(UNITS, numbers, side="right")
    usable = (unit < len(UNITS)) & np.isfinite(numbers)
    return np.where(usable, numbers / PER_SECOND[np.minimum(unit, len(UNITS) - 1)], np.nan)


def text_seconds(texts: pd.Series) -> FloatArray:
    """Seconds [n] float64 of ISO 8601 texts [n], by the rule of `parse_time`, to microseconds; NaN where a text is
    none. Times before 1970 are negative."""
    stamps = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
    found = stamp_seconds(stamps)
    found[texts.isin(_WORDS).to_numpy(bool)] = np.nan
    for row in np.flatnonzero(np.isnan(found) & texts.notna().to_numpy(bool)):  # rare: forms that only Python reads
        found[row] = _iso_seconds(str(texts.iloc[row]))
    return found


def stamp_seconds(stamps: pd.Series) -> FloatArray:
    """Seconds [n] float64 of moments [n] with a zone; NaN where there is none."""
    # In microseconds, for which a year is neither too early nor too late.
    ticks = stamps.dt.tz_convert(None).to_numpy("datetime64[us]")
    found: FloatArray = np.where(np.isnat(ticks), np.nan, ticks.astype(np.int64) / 1e6)
    return found


def _number_seconds(value: float) -> float:
    if isinstance(value, bool):
        return math.nan
    if value < 0:
        return value
    return next((value / per for end, per in _RULE if value < end), math.nan)  # of NaN, too


def _text_seconds(text: str, zoned: bool) -> float:
    if not zoned:
        stripped = text.strip()
        if _NUMBER.fullmatch(stripped):
            return _number_seconds(float(stripped))
        return float(text_seconds(pd.Series([stripped], dtype="str"))[0])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    if moment.tzinfo is None:
        raise ValueError("a text needs a time zone, for example 2026-01-31T12:00:00Z")
    return moment.timestamp()


def _iso_seconds(text: str) -> float:
    """UTC where the text says no zone; NaN where it is no time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _shown(value: object) -> str:
    return repr(value)[:80]
