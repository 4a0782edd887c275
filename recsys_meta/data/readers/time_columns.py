"""Columns of times, read as seconds since 1970 UTC by the rule of `recsys_meta.core.time_parsing`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from recsys_meta.core.arrays import FloatArray, IntArray
from recsys_meta.core.cells import Mask, parse_numbers, text_cells
from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.time_parsing import (
    DATE_DIGITS,
    FIRST_DATE_YEAR,
    LARGEST_DATE,
    LAST_DATE_YEAR,
    LATEST,
    PER_SECOND,
    SMALLEST_DATE,
    TIME_UNITS,
    UNITS,
)

INVALID_TIME = -2
"""Marks a cell that is not a time."""

BEFORE_1970 = -1
"""Marks a time before 1970."""

MICROSECONDS = 10**6
"""Microseconds in a second."""


@dataclass
class NumberForm:
    """Form of the times of one file that are numbers: dates by their digits, 20201122, or seconds and the like.

    Some numbers may be either. The first numbers that are read decide for the file: dates where most of them may be.
    """

    is_date: bool | None = None


_UNITS, _PER_SECOND = np.array(UNITS), np.array(PER_SECOND)
_RELATIVE_WORDS = ("now", "today")  # pandas reads them as times
_ZONED_TEXT = r"[Tt ][0-9].*(?:[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)$"


def seconds_column(
    cells: pd.Series,
    time_format: str | None = None,
    time_zone: str | None = None,
    numbers: NumberForm | None = None,
) -> IntArray:
    """Read cells [n] as whole seconds [n] int64.

    Empty cells become NO_TIME, times before 1970 BEFORE_1970, and cells that are not times INVALID_TIME.
    """
    return whole_seconds(microseconds_column(cells, time_format, time_zone, numbers))


def whole_seconds(microseconds: IntArray) -> IntArray:
    """Convert what `microseconds_column` returned to whole seconds [n] int64; marks stay as they are."""
    is_time = (microseconds >= 0) & (microseconds != NO_TIME)
    seconds: IntArray = np.where(is_time, microseconds // MICROSECONDS, microseconds)
    return seconds


def microseconds_column(
    cells: pd.Series,
    time_format: str | None = None,
    time_zone: str | None = None,
    numbers: NumberForm | None = None,
) -> IntArray:
    """Read cells [n] as microseconds since 1970 UTC [n] int64, so that the order within a second is kept.

    Empty cells become NO_TIME, times before 1970 BEFORE_1970, and cells that are not times INVALID_TIME.
    """
    exact, empty = exact_seconds_column(cells, time_format, time_zone, numbers)
    usable = (exact >= 0) & (exact < LATEST + 1)
    time = np.where(usable, np.rint(np.where(usable, exact, 0) * MICROSECONDS).astype(np.int64), INVALID_TIME)
    time[exact < 0] = BEFORE_1970
    time[empty] = NO_TIME
    return time


def exact_seconds_column(
    cells: pd.Series,
    time_format: str | None = None,
    time_zone: str | None = None,
    numbers: NumberForm | None = None,
) -> tuple[FloatArray, Mask]:
    """Read cells [n] as seconds [n] float64 with their fractions; also return the mask [n] of empty cells.

    Numbers, texts of numbers, ISO 8601 texts and datetimes are read, in the zone where they name none (UTC by default);
    with a format, texts of that form, or numbers of that unit. `numbers` is the form of the numbers of a file that is
    read in parts; these cells decide it where none did before. A cell that is not a time becomes NaN, a time before
    1970 a negative number.
    """
    if pd.api.types.is_datetime64_any_dtype(cells.dtype):
        return _datetime_cells(cells, time_zone), cells.isna().to_numpy(bool)
    texts = cells if pd.api.types.is_numeric_dtype(cells) else text_cells(cells)
    number, empty = parse_numbers(texts, booleans=False)
    if time_format is not None and time_format not in TIME_UNITS:
        return _formatted_seconds(text_cells(cells), time_format, time_zone), empty
    if time_format is None:
        time = _number_seconds(number, time_zone, numbers or NumberForm())
    else:
        time = number * TIME_UNITS[time_format]
    others = np.flatnonzero(np.isnan(number) & ~empty)
    if len(others):
        time[others] = _text_seconds(text_cells(texts.iloc[others]), time_zone)
    return time, empty


def _number_seconds(numbers: FloatArray, time_zone: str | None, form: NumberForm) -> FloatArray:
    """Convert numbers [n] to seconds [n]; the array form of `time_parsing.scalar_seconds`.

    Numbers whose digits are dates are read as dates where most of the column are: a clock that began with the log
    passes such numbers too.
    """
    known = np.isfinite(numbers).sum()
    unit = np.searchsorted(_UNITS, numbers, side="right")
    usable = (unit < len(_UNITS)) & np.isfinite(numbers)
    seconds = np.where(usable, numbers / _PER_SECOND[np.minimum(unit, len(_UNITS) - 1)], np.nan)
    candidates = np.flatnonzero((numbers >= SMALLEST_DATE) & (numbers < LARGEST_DATE))
    dates = _date_digit_seconds(numbers[candidates])
    is_date = ~np.isnan(dates)
    if form.is_date is None and known:
        form.is_date = bool(2 * is_date.sum() > known)
    if form.is_date:
        _set_zone(dates, is_date, time_zone)
        seconds[candidates[is_date]] = dates[is_date]
        # Among dates, 20201322 is a wrong date rather than a second of 1970.
        has_digits = np.isin(_digit_counts(numbers[candidates]), list(DATE_DIGITS))
        seconds[candidates[~is_date & has_digits]] = np.nan
    return seconds


def _digit_counts(numbers: FloatArray) -> IntArray:
    counts: IntArray = np.floor(np.log10(numbers)).astype(np.int64) + 1
    return counts


def _date_digit_seconds(numbers: FloatArray) -> FloatArray:
    """Convert numbers [n] whose digits are a date to seconds [n] UTC; NaN for other numbers."""
    seconds = np.full(len(numbers), np.nan)
    digits = _digit_counts(numbers)
    for count in DATE_DIGITS:
        rows = np.flatnonzero((digits == count) & (numbers == np.floor(numbers)))
        if not len(rows):
            continue
        clock = numbers[rows].astype(np.int64) * 10 ** (14 - count)
        year, month, day = clock // 10**10, clock // 10**8 % 100, clock // 10**6 % 100
        hour, minute, second = clock // 10**4 % 100, clock // 100 % 100, clock % 100
        good = (year >= FIRST_DATE_YEAR) & (year <= LAST_DATE_YEAR) & (month >= 1) & (month <= 12)
        good &= (hour < 24) & (minute < 60) & (second < 60)
        months = np.where(good, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
        dates = months.astype("datetime64[D]") + (day - 1)
        good &= (day >= 1) & (dates.astype("datetime64[M]") == months)
        of_day = hour * 3600 + minute * 60 + second
        seconds[rows[good]] = (dates.astype("datetime64[s]").astype(np.int64) + of_day)[good]
    return seconds


def _text_seconds(texts: pd.Series, time_zone: str | None) -> FloatArray:
    """Convert ISO 8601 texts [n] to seconds [n], exact to microseconds; NaN where a text is not a time."""
    row, distinct = _distinct_texts(texts)
    seconds = _datetime_seconds(pd.to_datetime(distinct, format="ISO8601", utc=True, errors="coerce"))
    # Python reads a few forms that pandas does not. They are rare, so a loop over them is cheap enough.
    for i in np.flatnonzero(np.isnan(seconds)):
        seconds[i] = _iso_seconds(str(distinct.iloc[i]))
    if time_zone is not None:
        _set_zone(seconds, ~distinct.str.contains(_ZONED_TEXT).to_numpy(bool), time_zone)
    return seconds[row]


def _formatted_seconds(texts: pd.Series, time_format: str, time_zone: str | None) -> FloatArray:
    """Convert texts [n] of one form (of `strptime`) to seconds [n]; NaN where a text has another."""
    row, distinct = _distinct_texts(texts)
    try:
        stamps = pd.to_datetime(distinct, format=time_format, errors="coerce", utc=True)
    except (ValueError, KeyError, re.error) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"time_format '{time_format}' is no form that times can have: {reason}") from None
    seconds = _datetime_seconds(stamps)
    if "%z" not in time_format:
        _set_zone(seconds, ~np.isnan(seconds), time_zone)
    return seconds[row]


def _distinct_texts(texts: pd.Series) -> tuple[IntArray, pd.Series]:
    """Return the number of each text's value [n], and the distinct values: a log has few moments beside its rows.

    Words that pandas reads as the present moment, whatever the form, are empty: the same file would mean another time
    each time.
    """
    row, distinct = pd.factorize(texts)
    values = pd.Series(distinct, dtype="str")
    return row, values.mask(values.isin(_RELATIVE_WORDS), "")


def _datetime_cells(cells: pd.Series, time_zone: str | None) -> FloatArray:
    seconds = _datetime_seconds(pd.to_datetime(cells, utc=True))
    if cells.dt.tz is None:
        _set_zone(seconds, ~np.isnan(seconds), time_zone)
    return seconds


def _set_zone(seconds: FloatArray, rows: Mask, time_zone: str | None) -> None:
    """Read the clock times of some rows, which were taken as UTC, as those of a zone, in place.

    An hour that comes twice is taken as the first, one that summer time leaves out as the end of the gap.
    """
    rows = rows & ~np.isnan(seconds)
    if time_zone is None or not rows.any():
        return
    clock = pd.Series(np.rint(seconds[rows] * MICROSECONDS).astype("datetime64[us]"))
    first = np.ones(len(clock), bool)
    local = clock.dt.tz_localize(time_zone, ambiguous=first, nonexistent="shift_forward")
    seconds[rows] = _datetime_seconds(local.dt.tz_convert("UTC"))


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


def range_warnings(first: float, last: float, count: int, now: float, time_format: str | None = None) -> Sequence[str]:
    """Describe what is implausible about `count` times from `first` to `last`, in seconds, each a sentence.

    Where `time_format` is a unit, the schema has said what its numbers are: they may be the steps of a clock of its
    own, which nothing is said about.
    """
    if time_format in TIME_UNITS:
        return []
    warnings = []
    if first < EARLIEST_PLAUSIBLE:
        warnings.append(f"times begin in {_day(first)}, before 1990: are they in another unit or form? {_TIME_REMEDY}")
    if last > now + DAY_AHEAD:
        warnings.append(f"times end in {_day(last)}, in the future: are they in another unit or form? {_TIME_REMEDY}")
    if first == last and count > 1:
        warnings.append(f"all {count:,} times are equal ({_day(first)}): they put no rows in order")
    return warnings


EARLIEST_PLAUSIBLE = 631_152_000
"""1990 in seconds: hardly any log of events is older."""

DAY_AHEAD = 86_400
"""Seconds by which a clock may be ahead before it is told."""

_TIME_REMEDY = "A schema may say time_format and time_zone"


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(min(max(seconds, 0.0), LATEST), UTC):%Y-%m-%d}"
