"""What is valid but hardly meant is told: ids that do not meet, impossible times; and the order within a second."""

import numpy as np
import pandas as pd
import pytest

from recsys_meta.data import describe, validate
from tests.data.source_files import HEAD, prepared, rows, write

TODAY = HEAD + "u1,001,4,2026-01-31\nu1,002,5,2026-02-01\nu2,001,1,2026-02-02\n"
WITH_ITEMS = """
name = "small"
label = "rating"
time = "time"
[[item_features]]
name = "tags"
kind = "multi"
"""


def test_a_feature_table_whose_ids_do_not_meet_those_of_the_events(tmp_path):
    data = prepared(tmp_path, TODAY, schema=WITH_ITEMS, items="item,tags\n1,a\n2,b\n3,c\n")
    (warning,) = data.warnings
    assert "none of 2 of the ids of 'item' in the events is in" in warning and "items.csv" in warning
    assert "'001'" in warning and "'1'" in warning
    assert describe(data)["about"]["warnings"] == [warning]
    assert validate(tmp_path / "raw" / "schema.toml").warnings == (warning,)
    fitting = prepared(tmp_path / "b", TODAY, schema=WITH_ITEMS, items="item,tags\n001,a\n3,c\n")
    assert fitting.warnings == ()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("2026-01-31", "1985-01-31", "begin in 1985-01-31, before 1990"),
        ("2026-01-31", "2626-01-31", "end in 2626-01-31, in the future"),
        ("2026-0", "2626-0", "end in 2626-02-02, in the future"),
    ],
)
def test_times_that_are_hardly_meant(tmp_path, old, new, says):
    (warning,) = prepared(tmp_path, TODAY.replace(old, new)).warnings
    assert says in warning and "time_format" in warning


def test_times_that_are_all_equal(tmp_path):
    text = HEAD + "u1,a,4,2026-01-31\nu1,b,5,2026-01-31\nu2,a,1,2026-01-31\n"
    (warning,) = prepared(tmp_path, text).warnings
    assert "all 3 times are equal (2026-01-31)" in warning


@pytest.mark.parametrize("kind", ["iso", "milliseconds", "timestamps"])
def test_the_order_within_a_second_counts_and_two_events_of_one_second_are_no_repetition(tmp_path, kind):
    times = pd.to_datetime(["2026-01-31T12:00:00.750", "2026-01-31T12:00:00.250", "2026-01-31T12:00:00.500"])
    frame = pd.DataFrame({"user": "u", "item": ["a", "a", "b"], "rating": [1.0, 2.0, 3.0]})
    match kind:
        case "iso":
            frame["time"] = times.strftime("%Y-%m-%dT%H:%M:%S.%f")
        case "milliseconds":
            frame["time"] = times.astype("datetime64[ms]").astype(np.int64)
        case "timestamps":
            frame["time"] = times
    path = write(tmp_path / "raw", None, name="events.parquet")
    frame.to_parquet(path.parent / "events.parquet")
    from recsys_meta.data import prepare_custom

    data = prepare_custom(path, tmp_path / "out")
    assert [(i, label, t) for _, i, label, t in rows(data)] == [
        ("a", 2, 1769860800),
        ("b", 3, 1769860800),
        ("a", 1, 1769860800),
    ]
    frame.iloc[[0, 1, 0]].to_parquet(path.parent / "events.parquet")
    report = validate(path)
    assert report.rejected == {"events": 1}, "to the microsecond it is one"


def test_whole_seconds_give_the_digest_that_they_gave(tmp_path):
    """Prepared data of earlier versions are found again: their times were kept in seconds, and so they are."""
    data = prepared(tmp_path, HEAD + "u1,i1,4,100\nu1,i2,5,200\nu2,i1,1,300\n")
    assert data.digest == "780db517e0a7f37f66ad35645eca08eedc8f6f1564c7ed2ff47c45b0b9ffac2c"
