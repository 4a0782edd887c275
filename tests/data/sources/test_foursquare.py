"""Check-ins of American cities: cities of enough rows, in local time, with places of their own."""

import numpy as np
import pytest

from recsys_meta.core.errors import DataError
from recsys_meta.core.types import FIRST
from recsys_meta.data import describe, prepare_named
from recsys_meta.data.sources.foursquare import MIN_CHECKINS
from tests.data.source_files import cells, put

CITIES = (
    "city,checkins,users,pois,country,lat,lon,utc_offset_h\n"
    "New York,1,1,1,US,40.7,-74.0,-5.0\nPhoenix,1,1,1,US,33.4,-112.0,-7.0\nSmall,1,1,1,US,33,-112.0,-7.0\n"
)
PLACES = "item,lat,lon,city\nn1,40.7,-74.0,New York\nn2,40.8,-74.1,New York\np1,33.4,-112.0,Phoenix\ns1,33,-112,Small\n"
WINTER, SUMMER = 1357009200, 1372647600  # the first of January and of July 2013, 3 o'clock UTC


def layout(folder, more="", places=PLACES):
    rows = [f"u{i % 7},n{1 + i % 2},{WINTER + i},New York\n" for i in range(MIN_CHECKINS - 1)]
    rows += [f"u1,n1,{SUMMER},New York\n"]
    rows += [f"u{i % 5},p1,{SUMMER + i},Phoenix\n" for i in range(MIN_CHECKINS)]
    rows += [f"u1,s1,{SUMMER + i},Small\n" for i in range(MIN_CHECKINS - 1)] + ["u1,x1,1357009200,\n"]
    head = "user,item,timestamp,city\n"
    return put(
        folder / "foursquare-us", checkins__csv=head + "".join(rows) + more, items__csv=places, cities__csv=CITIES
    )


def test_cities_of_enough_check_ins(tmp_path):
    layout(tmp_path)
    data = prepare_named("foursquare-us", tmp_path / "out", data_root=tmp_path)
    assert list(data.vocab.values["entity"]) == ["New York", "Phoenix"]
    assert data.events.counts.tolist() == [MIN_CHECKINS, MIN_CHECKINS]
    assert data.ownership.owner.tolist() == [-1, -1, 0, 0, 1]
    hours = data.vocab.values["context.hour"]
    told = [hours[h - FIRST] for h in data.events.context["hour"]]
    assert set(told[: MIN_CHECKINS - 1]) == {"22"}, "five hours behind in winter"
    assert told[MIN_CHECKINS - 1] == "23", "four in summer"
    assert set(told[MIN_CHECKINS:]) == {"20"}, "Phoenix keeps no summer time"
    assert set(data.vocab.values["context.weekday"]) == {"mon", "sun"}
    assert cells(data, "entity", "country") == [["US"], ["US"]]
    assert data.about["rows_rejected"] == {}
    schema = data.schema
    assert (schema.objective, schema.folds, schema.shots) == ("choice", 5, (0, 64, 256, 1024))


@pytest.mark.parametrize(
    ("row", "field", "says"),
    [
        ("u1,p1,1357009999,New York\n", "place", "'p1' is at home in 'Phoenix', not in 'New York'"),
        ("u1,n1,soon,New York\n", "timestamp", "'soon' is not a time"),
        (",n1,1357009999,New York\n", "user", "is empty"),
    ],
)
def test_bad_check_ins_keep_their_lines(tmp_path, row, field, says):
    layout(tmp_path, row)
    with pytest.raises(DataError, match=says) as caught:
        prepare_named("foursquare-us", tmp_path / "out", data_root=tmp_path)
    assert (caught.value.line, caught.value.field) == (2 + 3 * MIN_CHECKINS, field)


def test_real_check_ins(real):
    data = real("foursquare-us")
    found = describe(data)
    assert (found["entities"], found["events"], found["actors"]) == (41, 183_958, 4_951)
    assert data.about["rows_rejected"] == {}
    assert found["items_of_nobody"] == 0
    assert data.about["warnings"] == []
    assert data.about["item_without_features"] == 0
    counts = dict(zip(data.vocab.values["entity"], data.events.counts.tolist(), strict=True))
    assert (counts["New York"], counts["Monterrey"], min(counts.values())) == (52_903, 9_561, 303)
    a, b = (int(data.events.indptr[list(counts).index("New York") + i]) for i in (0, 1))
    names = np.array([int(h) for h in data.vocab.values["context.hour"]])
    hours = names[np.asarray(data.events.context["hour"])[a:b] - FIRST]
    assert int(np.bincount(hours).argmin()) in (3, 4, 5), "people sleep at night"
    lat = data.items["lat"].values
    assert not np.isnan(lat[FIRST:]).any()
