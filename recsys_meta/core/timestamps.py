"""Times as people write them, as seconds since 1970 UTC: one rule for request bodies, event files and raw data."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from recsys_meta.core.time_parsing import PER_SECOND, UNITS, check_seconds, scalar_seconds
from recsys_meta.core.types import FloatArray

_UNITS, _PER_SECOND = np.array(UNITS), np.array(PER_SECOND)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_RELATIVE_WORDS = ("now", "today")  # pandas takes them for times


def parse_time(value: float | str) -> float:
    """Seconds since 1970 UTC of a number, whose unit is told by its size, or of a text (a number or ISO 8601, UTC
    unless it says otherwise). Raises ValueError."""
    return check_seconds(_text_seconds(value) if isinstance(value, str) else scalar_seconds(value), value)


def number_seconds(numbers: FloatArray) -> FloatArray:
    """Seconds [n] float64 of numbers [n], by the rule of `parse_time`; NaN where a number is no time. Times before 1970
    stay negative."""
    numbers = np.asarray(numbers, np.float64)
    unit = np.searchsorted(_UNITS, numbers, side="right")
    usable = (unit < len(_UNITS)) & np.isfinite(numbers)
    return np.where(usable, numbers / _PER_SECOND[np.minimum(unit, len(_UNITS) - 1)], np.nan)


def text_seconds(texts: pd.Series) -> FloatArray:
    """Seconds [n] float64 of ISO 8601 texts [n], by the rule of `parse_time`, to microseconds; NaN where a text is
    none. Times before 1970 are negative."""
    stamps = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
    found = datetime_seconds(stamps)
    found[texts.isin(_RELATIVE_WORDS).to_numpy(bool)] = np.nan
    for row in np.flatnonzero(np.isnan(found) & texts.notna().to_numpy(bool)):  # rare: forms that only Python reads
        found[row] = _iso_seconds(str(texts.iloc[row]))
    return found


def datetime_seconds(stamps: pd.Series) -> FloatArray:
    """Seconds [n] float64 of moments [n] with a zone; NaN where there is none."""
    # In microseconds, for which a year is neither too early nor too late.
    ticks = stamps.dt.tz_convert(None).to_numpy("datetime64[us]")
    found: FloatArray = np.where(np.isnat(ticks), np.nan, ticks.astype(np.int64) / 1e6)
    return found


def _text_seconds(text: str) -> float:
    stripped = text.strip()
    if _NUMBER.fullmatch(stripped):
        return scalar_seconds(float(stripped))
    return float(text_seconds(pd.Series([stripped], dtype="str"))[0])


def _iso_seconds(text: str) -> float:
    """UTC where the text says no zone; NaN where it is no time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
