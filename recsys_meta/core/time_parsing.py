"""The rule for times: numbers, and texts with a time zone, as seconds since 1970 UTC.

It needs the standard library only, so that the client reads times by the server's rule without pandas.
`recsys_meta.data.readers.time_columns` applies the same rule to columns.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

LATEST = 253_402_300_799
"""The last second of the year 9999; a time lies between 0 and this."""

EXPECTED = "expected ISO 8601 or seconds (or milli-, micro- or nanoseconds) since 1970 UTC, up to the year 9999"

# The size of a number decides its unit: seconds reach 1e11 in the year 5138, milliseconds do in 1973.
UNITS = (1e11, 1e14, 1e17, 1e20)
"""Ends of the ranges of numbers that are seconds, milli-, micro- and nanoseconds."""

PER_SECOND = (1.0, 1e3, 1e6, 1e9)
"""Number of each unit in a second."""

TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Units that a schema may name as its `time_format`, in seconds."""

DATE_DIGITS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
"""Forms of dates that are written as one number, by their digits. As times since 1970 these numbers would lie in 1970,
in 1976, and after 2590."""

FIRST_DATE_YEAR, LAST_DATE_YEAR = 1900, 2100
"""Years of dates that are written as one number."""

SMALLEST_DATE, LARGEST_DATE = 19_000_101, 1e14
"""Bounds of the numbers that may be such dates."""


def parse_zoned_time(value: float | str | datetime) -> float:
    """Return seconds since 1970 UTC of a number (its size decides the unit), of an ISO 8601 text with a time zone, or
    of a datetime with one. Raises ValueError for anything else, and for times before 1970 or after the year 9999."""
    return check_seconds(scalar_seconds(value) if isinstance(value, int | float) else _zoned_seconds(value), value)


def names_zone(text: str) -> bool:
    """Return True for an ISO 8601 text with a time zone, which is one moment whoever reads it."""
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def scalar_seconds(value: float) -> float:
    """Return the seconds of a number; NaN where it is no time. Times before 1970 stay negative.

    A number whose digits are a date, such as 20201122 or 20201122221956, is that date, UTC.
    """
    if isinstance(value, bool):
        return math.nan
    if value < 0:
        return value
    if value >= SMALLEST_DATE and (seconds := _date_digit_seconds(value)) is not None:
        return seconds
    return next(
        (value / per for end, per in zip(UNITS, PER_SECOND, strict=True) if value < end), math.nan
    )  # of NaN too


def _date_digit_seconds(value: float) -> float | None:
    """Return the seconds of a number whose digits are a date of ISO 8601 in its basic form; None for another number."""
    if value >= LARGEST_DATE or value != int(value):
        return None
    digits = str(int(value))
    form = DATE_DIGITS.get(len(digits))
    if form is None or not FIRST_DATE_YEAR <= int(digits[:4]) <= LAST_DATE_YEAR:
        return None
    try:
        return datetime.strptime(digits, form).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def check_seconds(seconds: float, value: object) -> float:
    """Return the seconds that `value` was read as. Raises ValueError where it was no time (NaN), or lies before 1970
    or after the year 9999."""
    if math.isnan(seconds) or seconds >= LATEST + 1:
        raise ValueError(f"{_shown(value)} is not a time: {EXPECTED}")
    if seconds < 0:
        raise ValueError(f"{_shown(value)} is a time before 1970: {EXPECTED}")
    return seconds


def _zoned_seconds(value: str | datetime) -> float:
    try:
        stamp = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return math.nan
    if stamp.tzinfo is None:
        raise ValueError("a text needs a time zone, for example 2026-01-31T12:00:00Z")
    return stamp.timestamp()


def _shown(value: object) -> str:
    return repr(value)[:80]
