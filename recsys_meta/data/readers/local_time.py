"""The hour and the weekday where something happened, from seconds UTC."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.types import FloatArray, IntArray

DAY, HOUR = 86_400, 3_600
WEEKDAYS = np.array(["mon", "tue", "wed", "thu", "fri", "sat", "sun"])


def hour_and_weekday(time: IntArray, offset: FloatArray) -> pd.DataFrame:
    """Columns hour ('0' to '23') and weekday ('mon' to 'sun') of times [n] in seconds UTC, offset [n] hours ahead of
    it. Empty where the time or the offset (NaN) is not known.
    """
    known = (time >= 0) & (time != NO_TIME) & ~np.isnan(offset)
    local = np.where(known, time, 0) + np.rint(np.where(known, offset, 0) * HOUR).astype(np.int64)
    hour = (local // HOUR % 24).astype(str)
    day = WEEKDAYS[(local // DAY + 3) % 7]  # 1970 began on a Thursday
    return pd.DataFrame({"hour": np.where(known, hour, ""), "weekday": np.where(known, day, "")}, dtype="str")


def solar_offset(longitude: FloatArray) -> FloatArray:
    """Hours ahead of UTC of the nautical zone of a longitude in degrees, NaN for NaN: no borders and no summer time."""
    zone: FloatArray = np.rint(longitude / 15)
    return zone


def us_summer_time(time: IntArray, offset: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether the summer time of the United States (the rule since 2007) is on at times [n] UTC, where standard time
    is offset [n] hours ahead: from 2 o'clock on the second Sunday of March to 1 o'clock standard time on the first of
    November.
    """
    local = (time + offset * HOUR).astype("datetime64[s]")
    year = local.astype("datetime64[Y]")
    return (local >= _nth_sunday(year, 3, 2, 2)) & (local < _nth_sunday(year, 11, 1, 1))


def _nth_sunday(year: npt.NDArray[np.datetime64], month: int, which: int, hour: int) -> npt.NDArray[np.datetime64]:
    """An hour of the first, second ... Sunday of a month in each year [n]."""
    first = (year.astype("datetime64[M]") + (month - 1)).astype("datetime64[D]")
    day = (first.astype(np.int64) + 3) % 7
    sunday = first + (6 - day) + 7 * (which - 1)
    moment: npt.NDArray[np.datetime64] = sunday.astype("datetime64[s]") + hour * HOUR
    return moment
