"""One rule for times: of single values, of columns of raw data, and of the fields of a request."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys_meta.core.time_parsing import LATEST, parse_zoned_time
from recsys_meta.data.readers.time_columns import BEFORE_1970, INVALID_TIME, exact_seconds_column, seconds_column
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
]
WRONG = [1e20, np.inf, "soon", "now", "today", "12:00", "1_000", "0x10", "2026-13-01", "1e20", "inf"]
EARLY = [-1, -0.5, -1e30, "-5", "1000-01-01", "1969-12-31T23:59:59.5Z"]


def zoned(value) -> bool:
    """Return whether a value needs no assumption about its time zone."""
    return not isinstance(value, str) or value.endswith(("Z", "+01:00"))


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
