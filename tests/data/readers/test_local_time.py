"""Local time from seconds UTC."""

import numpy as np
import pytest

from recsys_meta.core.dataset import NO_TIME
from recsys_meta.data.readers.local_time import hour_and_weekday, solar_offset, us_summer_time
from recsys_meta.data.readers.time_columns import seconds_column


def at(*moments):
    import pandas as pd

    return seconds_column(pd.Series(moments))


def test_hour_and_weekday_of_known_moments():
    time = at("1970-01-01T00:00Z", "2012-04-03T18:00:08Z", "2000-02-29T23:59:59Z", "2026-11-21T09:00Z")
    told = hour_and_weekday(time, np.zeros(4))
    assert told["weekday"].tolist() == ["thu", "tue", "tue", "sat"]
    assert told["hour"].tolist() == ["0", "18", "23", "9"]


def test_the_offset_may_change_the_day_and_be_half_an_hour():
    told = hour_and_weekday(at("1970-01-01T00:00Z", "2012-04-03T18:45Z", "2012-04-03T03:00Z"), np.array([-1, 5.5, -8]))
    assert told["hour"].tolist() == ["23", "0", "19"]
    assert told["weekday"].tolist() == ["wed", "wed", "mon"]


def test_what_is_not_known_is_empty():
    told = hour_and_weekday(np.array([NO_TIME, -2, 0]), np.array([0.0, 0.0, np.nan]))
    assert (told == "").to_numpy().all()


def test_zones_of_longitudes():
    assert solar_offset(np.array([0, -73.98, 139.7, -122.4, 7.6, 180])).tolist() == [0, -5, 9, -8, 1, 12]
    assert np.isnan(solar_offset(np.array([np.nan]))).all()


@pytest.mark.parametrize(
    ("moment", "offset", "summer"),
    [
        ("2012-03-11T06:59:59Z", -5, False),
        ("2012-03-11T07:00:00Z", -5, True),
        ("2012-11-04T05:59:59Z", -5, True),
        ("2012-11-04T06:00:00Z", -5, False),
        ("2013-03-10T09:59:59Z", -8, False),
        ("2013-03-10T10:00:00Z", -8, True),
        ("2013-11-03T08:59:59Z", -8, True),
        ("2013-11-03T09:00:00Z", -8, False),
        ("2015-03-08T07:00:00Z", -5, True),
        ("2015-11-01T06:00:00Z", -5, False),
        ("2013-01-01T00:30:00Z", -5, False),
    ],
)
def test_summer_time_of_the_united_states(moment, offset, summer):
    assert us_summer_time(at(moment), np.array([float(offset)])).tolist() == [summer]
