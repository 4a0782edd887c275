"""A text that is written as in the data of a model is the time that it was there."""

import pytest

from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import Schema
from recsys_meta.inference.requests.event_times import read_times

NOON = 1769860800.0  # 2026-01-31T12:00:00Z


def shop(**times):
    return Schema(name="shop", time="at", **times)


@pytest.mark.parametrize(
    ("times", "text"),
    [
        ({"time_format": "%d.%m.%Y %H:%M"}, "31.01.2026 12:00"),
        ({"time_format": "%d.%m.%Y %H:%M", "time_zone": "Europe/Berlin"}, "31.01.2026 13:00"),
        ({"time_format": "%m/%d/%Y"}, "01/31/2026"),
        ({"time_zone": "Europe/Berlin"}, "2026-01-31T13:00:00"),
        ({"time_zone": "Europe/Berlin", "time_format": "ms"}, "2026-01-31 13:00"),
    ],
)
def test_texts_are_read_in_the_form_and_zone_of_the_data(times, text):
    expected = NOON - 12 * 3600 if times.get("time_format") == "%m/%d/%Y" else NOON
    assert read_times([5.5, text, None, text], shop(**times)) == [5.5, expected, None, expected]


@pytest.mark.parametrize(
    ("schema", "text", "says"),
    [
        (None, "2026-01-31T12:00:00", "a text needs a time zone"),
        (None, "31.01.2026", "'31.01.2026' is not a time: expected ISO 8601"),
        (shop(), "2026-01-31T12:00:00", "a text needs a time zone"),
        (shop(time_format="s"), "1000", "a text needs a time zone|is not a time"),
        (shop(time_zone="Europe/Berlin"), "1000", "'1000' is not a time from 1970 on: expected ISO 8601"),
        (
            shop(time_format="%d.%m.%Y"),
            "2026-01-31",
            r"'2026-01-31' is not .* the form of the model's data, %d\.%m\.%Y",
        ),
        (shop(time_format="%d.%m.%Y"), "31.01.1960", "'31.01.1960' is not a time from 1970 on"),
        (shop(time_format="%d.%m.%Y"), "now", "'now' is not a time"),
    ],
)
def test_other_texts_are_refused_with_what_the_model_expects(schema, text, says):
    with pytest.raises(DataError, match=says) as caught:
        read_times([1.0, text], schema)
    assert caught.value.field == "time"
