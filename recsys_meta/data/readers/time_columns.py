"""Columns of times, to whole seconds since 1970 UTC."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.time_parsing import LATEST
from recsys_meta.core.timestamps import datetime_seconds, number_seconds, text_seconds
from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.data.readers.cells import Mask, parse_numbers

INVALID_TIME = -2
"""Marks a cell that is no time."""

BEFORE_1970 = -1
"""Marks a time before 1970."""


def seconds_column(cells: pd.Series) -> IntArray:
    """Times [n] int64 of cells [n], by the rule of `parse_time`. Empty cells become NO_TIME, others that cannot be
    used INVALID_TIME or BEFORE_1970.
    """
    exact, empty = exact_seconds_column(cells)
    usable = (exact >= 0) & (exact < LATEST + 1)
    time = np.where(usable, np.floor(np.where(usable, exact, 0)).astype(np.int64), INVALID_TIME)
    time[exact < 0] = BEFORE_1970
    time[empty] = NO_TIME
    return time


def exact_seconds_column(cells: pd.Series) -> tuple[FloatArray, Mask]:
    """Times [n] float64 of cells [n] with their fractions, and which of them are empty [n]. NaN where a cell is no
    time; times before 1970 are negative."""
    if pd.api.types.is_datetime64_any_dtype(cells.dtype):
        return datetime_seconds(pd.to_datetime(cells, utc=True)), cells.isna().to_numpy(bool)
    if not pd.api.types.is_numeric_dtype(cells):
        cells = cells.astype("str").fillna("")
    number, empty = parse_numbers(cells)
    time = number_seconds(number)
    words = np.flatnonzero(np.isnan(number) & ~empty)
    if len(words):
        time[words] = text_seconds(cells.iloc[words].astype("str").str.strip())
    return time, empty
