"""Times as people write them, to whole seconds since 1970 UTC."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_meta.data.cells import numbers
from recsys_meta.dataset import NO_TIME
from recsys_meta.types import IntArray

BAD = -2
"""Marks a cell that is no time."""

NEGATIVE = -1
"""Marks a time before 1970."""

# The unit of a number is told by its size: seconds reach 1e11 in the year 5138, milliseconds do in 1973.
_UNITS = np.array([1e11, 1e14, 1e17, 1e20])
_PER_SECOND = np.array([1.0, 1e3, 1e6, 1e9])


def seconds(cells: pd.Series) -> IntArray:
    """Times [n] int64 of cells [n]: seconds, or milli-, micro- or nanoseconds by size, or ISO 8601 (UTC unless
    it says otherwise). Empty cells become NO_TIME, others that cannot be used BAD or NEGATIVE.
    """
    number, empty = numbers(cells)
    time = _from_numbers(number, empty)
    words = np.flatnonzero(np.isnan(number) & ~empty)
    if len(words):
        time[words] = _from_text(cells.iloc[words].astype("str").str.strip())
    return time


def _from_numbers(number: npt.NDArray[np.float64], empty: npt.NDArray[np.bool_]) -> IntArray:
    unit = np.searchsorted(_UNITS, number, side="right")
    usable = (unit < len(_UNITS)) & np.isfinite(number) & (number >= 0)
    whole = np.floor(np.where(usable, number, 0) / _PER_SECOND[np.minimum(unit, len(_UNITS) - 1)])
    time = np.where(usable, whole.astype(np.int64), BAD)
    time[np.isfinite(number) & (number < 0)] = NEGATIVE
    time[empty] = NO_TIME
    return time


def _from_text(text: pd.Series) -> IntArray:
    stamps = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
    known = stamps.notna().to_numpy(bool)
    time = np.full(len(text), BAD, np.int64)
    time[known] = stamps[known].to_numpy("datetime64[s]").astype(np.int64)
    time[known & (time < 0)] = NEGATIVE
    return time
