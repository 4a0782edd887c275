"""Local hour and weekday of an event, from seconds UTC and the offset of its place."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_meta.core.arrays import FloatArray, IntArray
from recsys_meta.core.dataset import NO_TIME

DAY, HOUR = 86_400, 3_600
WEEKDAYS = np.array(["mon", "tue", "wed", "thu", "fri", "sat", "sun"])


def hour_and_weekday(time: IntArray, offset: FloatArray) -> pd.DataFrame:
    """Return the columns hour ("0" to "23") and weekday ("mon" to "sun") of times [n] in seconds UTC at places that are
    offset [n] hours ahead of UTC. Cells are empty where the time or the offset (NaN) is unknown.
    """
    valid = (time >= 0) & (time != NO_TIME) & ~np.isnan(offset)
    local = np.where(valid, time, 0) + np.rint(np.where(valid, offset, 0) * HOUR).astype(np.int64)
    hour = (local // HOUR % 24).astype(str)
    day = WEEKDAYS[(local // DAY + 3) % 7]  # 1970 began on a Thursday
    return pd.DataFrame({"hour": np.where(valid, hour, ""), "weekday": np.where(valid, day, "")}, dtype="str")


def solar_offset(longitude: FloatArray) -> FloatArray:
    """Return the hours ahead of UTC of the nautical time zone of longitudes [n] in degrees; NaN for NaN.

    Nautical zones are 15 degrees wide and know neither borders nor summer time.
    """
    zone: FloatArray = np.rint(longitude / 15)
    return zone


def us_summer_time(time: IntArray, offset: FloatArray) -> npt.NDArray[np.bool_]:
    """Return the mask [n] of times in the summer time of the United States, by the rule since 2007.

    time [n] in seconds UTC; offset [n]: hours by which standard time is ahead of UTC. Summer time lasts from 2 o'clock
    on the second Sunday of March to 1 o'clock standard time on the first Sunday of November.
    """
    local = (time + offset * HOUR).astype("datetime64[s]")
    year = local.astype("datetime64[Y]")
    return (local >= _nth_sunday(year, 3, 2, 2)) & (local < _nth_sunday(year, 11, 1, 1))


def _nth_sunday(year: npt.NDArray[np.datetime64], month: int, which: int, hour: int) -> npt.NDArray[np.datetime64]:
    """Return an hour of the `which`-th Sunday (from 1) of a month in each year [n]."""
    first = (year.astype("datetime64[M]") + (month - 1)).astype("datetime64[D]")
    day = (first.astype(np.int64) + 3) % 7
    sunday = first + (6 - day) + 7 * (which - 1)
    time: npt.NDArray[np.datetime64] = sunday.astype("datetime64[s]") + hour * HOUR
    return time
