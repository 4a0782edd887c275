"""One rule for times: of single values, of columns of raw data, and of the fields of a request."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.errors import DataError
from recsys_meta.core.time_parsing import LATEST, parse_zoned_time
from recsys_meta.data.readers.time_columns import (
    BEFORE_1970,
    INVALID_TIME,
    NumberForm,
    exact_seconds_column,
    microseconds_column,
    range_warnings,
    seconds_column,
)
from recsys_meta.inference.requests.event_times import read_times
from recsys_meta.wire.requests import SupportEvent

NOON = 1769860800.0  # 2026-01-31T12:00:00Z

SAME = [
    (NOON, NOON),
    (NOON * 1e3, NOON),
    (NOON * 1e6, NOON),
    (NOON * 1e9, NOON),
    (0, 0),
    (99_999_999_999, 99_999_999_999),
    (10**11, 10**8),
    (10**14, 10**8),
    (10**17, 10**8),
    ("1769860800", NOON),
    (" 1769860800500 ", NOON + 0.5),
    ("1e3", 1000),
    ("2026-01-31T12:00:00Z", NOON),
    ("2026-01-31 12:00:00", NOON),
    ("2026-01-31T13:00:00+01:00", NOON),
    ("2026-01-31t12:00Z", NOON),
    ("2026-01-31T12:00:00,5Z", NOON + 0.5),
    ("2026-01-31T12:00:00.123456789Z", NOON + 0.123456),
    ("2026-01", 1767225600),
    ("9999-12-31T23:59:59Z", LATEST),
    (20201122, 1606003200),
    ("20201122", 1606003200),
    (20201122.0, 1606003200),
    (202011222219, 1606083540),
    (20201122221956, 1606083596),
    ("20201122221956", 1606083596),
    ("20201122T221956Z", 1606083596),
    ("20201122T231956+0100", 1606083596),
    (20201322, 20201322),
    (20000230, 20000230),
    (820454400000, 820454400),
]
WRONG = [1e20, np.inf, "soon", "now", "today", "12:00", "1_000", "0x10", "2026-13-01", "1e20", "inf"]
EARLY = [-1, -0.5, -1e30, "-5", "1000-01-01", "1969-12-31T23:59:59.5Z"]


def zoned(value) -> bool:
    """Return whether a value needs no assumption about its time zone."""
    return not isinstance(value, str) or value.endswith(("Z", "+01:00", "+0100"))


@pytest.mark.parametrize(("value", "expected"), SAME)
def test_every_reader_reads_a_time_alike(value, expected):
    exact, empty = exact_seconds_column(pd.Series([value]))
    assert (exact.tolist(), empty.tolist()) == ([expected], [False])
    assert seconds_column(pd.Series([value])).tolist() == [int(expected)]
    if zoned(value):
        assert parse_zoned_time(value) == expected
        assert SupportEvent(item="x", time=value).time == expected
    else:
        with pytest.raises(ValueError, match=r"needs a time zone|is not a time"):
            parse_zoned_time(value)


@pytest.mark.parametrize("value", [*WRONG, *EARLY])
def test_every_reader_refuses_what_is_no_time(value):
    early = value in EARLY
    assert seconds_column(pd.Series([value])).tolist() == [BEFORE_1970 if early else INVALID_TIME]
    if zoned(value):
        with pytest.raises(ValueError, match="before 1970" if early else "is not a time: expected ISO 8601 or seconds"):
            parse_zoned_time(value)
    if isinstance(value, str) and not (early and zoned(value)):
        assert SupportEvent(item="x", time=value).time == value, "some model may have its times so"
        with pytest.raises(DataError, match=r"a text needs a time zone|is not a time"):
            read_times([value])
    else:
        with pytest.raises(ValidationError):
            SupportEvent(item="x", time=value)


@given(st.one_of(st.integers(0, 10**21), st.floats(0, 1e21)))
def test_a_number_alone_and_in_a_column_is_the_same(number):
    exact = exact_seconds_column(pd.Series([float(number)]))[0][0]
    if np.isnan(exact):
        with pytest.raises(ValueError, match="not a time"):
            parse_zoned_time(float(number))
    else:
        assert parse_zoned_time(float(number)) == exact


def test_moments_with_gaps_are_columns_too():
    stamps = pd.Series(pd.to_datetime(["2026-01-31T12:00:00.5", None], format="ISO8601"))
    for cells in (stamps, stamps.dt.tz_localize("UTC"), pd.Series(["2026-01-31T12:00:00.5", None])):
        exact, empty = exact_seconds_column(cells)
        assert exact[0] == NOON + 0.5 and empty.tolist() == [False, True]


def test_a_column_is_read_at_once():
    """Row by row a million texts would take minutes."""
    texts = pd.Series(pd.to_datetime(np.arange(300_000) * 5000, unit="s").strftime("%Y-%m-%dT%H:%M:%SZ"))
    began = time.perf_counter()
    found = seconds_column(texts)
    assert time.perf_counter() - began < 5
    assert (found == np.arange(300_000) * 5000).all()


def test_among_dates_a_wrong_one_is_no_second_of_1970_and_among_seconds_none_is_a_date():
    dates = pd.Series([20201122, 20201322, 20201123221956, 20201124])
    assert seconds_column(dates).tolist() == [1606003200, INVALID_TIME, 1606169996, 1606176000]
    clock = np.arange(19_900_000, 20_300_000, 1000)  # seconds since a log began
    assert seconds_column(pd.Series(clock)).tolist() == clock.tolist()
    assert seconds_column(pd.Series([20201122, None, 20201123])).tolist()[::2] == [1606003200, 1606089600]


def test_a_form_and_a_zone_may_be_given():
    def read(cells, *given):
        return seconds_column(pd.Series(cells), *given).tolist()

    assert read(["31.01.2026 12:00", "soon", ""], "%d.%m.%Y %H:%M") == [NOON, INVALID_TIME, NO_TIME]
    assert read(["31.01.2026 13:00", "01.07.2026 12:00"], "%d.%m.%Y %H:%M", "Europe/Berlin") == [NOON, 1782900000]
    assert (
        read(["2026-01-31 13:00", "2026-01-31T12:00Z", "2026-01-31T13:00+01:00"], None, "Europe/Berlin") == [NOON] * 3
    )
    assert read([20260131], None, "Europe/Berlin") == [1769814000]
    assert read([31012026], "%d%m%Y") == [1769817600] == read(["31012026"], "%d%m%Y")
    assert read([1769860800], "ms") == [1769860] and read([20201122], "s") == [20201122]
    assert read(["2026-10-25 02:30", "2026-03-29 02:30"], None, "Europe/Berlin") == [1792888200, 1774746000], (
        "an hour that comes twice is the first, one that is left out is the end of the gap"
    )
    naive = pd.to_datetime(pd.Series(["2026-01-31 13:00"]))
    assert seconds_column(naive, None, "Europe/Berlin").tolist() == [NOON]
    assert seconds_column(naive.dt.tz_localize("Europe/Berlin"), None, "UTC").tolist() == [NOON]


@pytest.mark.parametrize("word", ["now", "today", " now "])
@pytest.mark.parametrize("form", [None, "%d/%m/%Y", "%H:%M", "%Y"])
def test_the_present_moment_is_no_time_of_an_event_whatever_the_form(word, form):
    assert seconds_column(pd.Series([word, ""]), form).tolist() == [INVALID_TIME, NO_TIME]


@pytest.mark.parametrize(("form", "text"), [(None, "2026-01-31T{:02}:00"), ("%d.%m.%Y %H", "31.01.2026 {:02}")])
def test_each_text_is_read_once_however_often_it_stands_there(monkeypatch, form, text):
    counts, real = [], pd.to_datetime

    def counted(values, **options):
        counts.append(len(values))
        return real(values, **options)

    monkeypatch.setattr(pd, "to_datetime", counted)
    hours = np.tile([3, 1, 2, 1], 500)
    found = seconds_column(pd.Series([text.format(h) for h in hours]), form, "Europe/Berlin")
    assert (found == NOON + (hours - 13) * 3600).all() and counts == [3]


def test_the_numbers_of_a_file_are_dates_or_seconds_throughout():
    dates, seconds = pd.Series([20201122, 20201123, 5]), pd.Series([5, 6, 20201124])
    form = NumberForm()
    assert seconds_column(pd.Series(["", None]), numbers=form).tolist() == [NO_TIME] * 2 and form.is_date is None
    assert seconds_column(dates, numbers=form).tolist()[:2] == [1606003200, 1606089600] and form.is_date
    assert seconds_column(seconds, numbers=form).tolist() == [5, 6, 1606176000]
    form = NumberForm()
    assert seconds_column(seconds, numbers=form).tolist() == [5, 6, 20201124] and form.is_date is False
    assert seconds_column(dates, numbers=form).tolist() == [20201122, 20201123, 5]


def test_the_order_within_a_second_is_kept():
    times = microseconds_column(pd.Series(["1600000000.75", "1600000000250", "2020-09-13T12:26:40.5Z"]))
    assert times.tolist() == [1600000000750000, 1600000000250000, 1600000000500000]
    assert microseconds_column(pd.Series([1_600_000_000_123_456_789])).tolist() == [1600000000123457]


@pytest.mark.parametrize(
    ("first", "last", "count", "says"),
    [
        (0, NOON, 5, ["1970-01-01, before 1990"]),
        (NOON, NOON + 10**9, 5, ["2057-10-09, in the future"]),
        (NOON, NOON, 5, ["all 5 times are equal (2026-01-31)"]),
        (NOON, NOON, 1, []),
        (NOON, NOON + 60, 5, []),
    ],
)
def test_an_implausible_range_is_told(first, last, count, says):
    told = range_warnings(first, last, count, NOON + 3600)
    assert len(told) == len(says) and all(s in t for s, t in zip(says, told, strict=True))
    assert list(range_warnings(first, last, count, NOON + 3600, "%Y-%m")) == list(told)
    for unit in ("s", "ms", "us", "ns"):
        assert not range_warnings(first, last, count, NOON + 3600, unit), "it may be a clock of its own"
