"""Visits that say only where places lie: cities are made from coordinates, and local hours from longitudes."""

import numpy as np
import pandas as pd
import pytest

from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.core.types import FIRST
from recsys_meta.data import prepare_custom
from recsys_meta.data.geo.geo_clusters import cluster_cities
from tests.data.source_files import write

SCHEMA = """
name = "walks"
kind = "city"
objective = "choice"
entity = "town"
item = "spot"
actor = "who"
time = "when"
home = "town"
[[item_features]]
name = "lat"
kind = "numeric"
[[item_features]]
name = "lon"
kind = "numeric"
[[item_features]]
name = "town"
"""
CLOCK = '\n[[context]]\nname = "hour"\n[[context]]\nname = "weekday"\n'
HEAD = "spot,who,when\n"
# Three spots of London, two of Tokyo, one in the sea.
SPOTS = "spot,lat,lon\nl1,51.50,-0.12\nl2,51.52,-0.10\nl3,51.45,-0.20\nt1,35.68,139.76\nt2,35.70,139.70\ns,0,-30\n"
WALKS = HEAD + "l1,a,100\nl1,b,7300\nl2,a,200\nl3,a,300\nt1,c,400\nt2,c,500\nt1,d,90000\ns,e,1000\n"
RADIUS = "city_radius_km = 40\n"


def walks(folder, events=WALKS, items=SPOTS, schema=SCHEMA, files=RADIUS, on_error="fail", block=2**20, **more):
    if items is not None:
        more["items"] = items
    return prepare_custom(write(folder / "raw", events, schema, files, **more), folder / "out", on_error, block=block)


@pytest.mark.parametrize("block", [1, 2**20])
def test_cities_are_made_of_places(tmp_path, block):
    data = walks(tmp_path, block=block)
    names = list(data.vocab.values["entity"])
    assert len(names) == 3
    lat, lon = np.array([[float(x) for x in n.split(",")] for n in names]).T
    np.testing.assert_allclose(sorted(lat), [0, 35.68, 51.5], atol=0.03)
    np.testing.assert_allclose(sorted(lon), [-30, -0.12, 139.76], atol=0.07)
    owner = data.ownership.owner[FIRST:]
    spots = list(data.vocab.values["item"])
    assert spots == ["l1", "l2", "l3", "s", "t1", "t2"]
    assert len({owner[0], owner[1], owner[2]}) == 1
    assert len({owner[4], owner[5]}) == 1
    assert len(set(owner)) == 3
    assert data.events.counts.sum() == 8
    assert list(data.vocab.values["item.town"]) == names


def test_the_order_of_the_files_does_not_matter(tmp_path):
    head, *rest = WALKS.splitlines()
    spots, *others = SPOTS.splitlines()
    turned = walks(tmp_path / "a", "\n".join([head, *rest[::-1]]) + "\n", "\n".join([spots, *others[::-1]]) + "\n")
    assert turned.digest == walks(tmp_path / "b").digest


def test_coordinates_may_stand_in_the_events(tmp_path):
    where = dict(line.split(",", 1) for line in SPOTS.splitlines()[1:])
    rows = [f"{line},{where[line.split(',')[0]]}" for line in WALKS.splitlines()[1:]]
    inline = "spot,who,when,lat,lon\n" + "\n".join(rows) + "\n"
    data = walks(tmp_path / "a", inline, None)
    apart = walks(tmp_path / "b")
    assert data.digest == apart.digest


def test_features_of_the_cities_made(tmp_path):
    schema = SCHEMA + '[[entity_features]]\nname = "lat"\nkind = "numeric"\n'
    data = walks(tmp_path, schema=schema)
    names = list(data.vocab.values["entity"])
    np.testing.assert_allclose(data.entities["lat"].values, [float(n.split(",")[0]) for n in names], atol=0.001)


def test_local_hour_and_weekday_follow_from_the_longitude(tmp_path):
    data = walks(tmp_path, schema=SCHEMA + CLOCK)
    hour, day = data.vocab.values["context.hour"], data.vocab.values["context.weekday"]
    told = {
        (data.vocab.value("item", int(i)), int(t)): (hour[h - FIRST], day[d - FIRST])
        for i, t, h, d in zip(
            data.events.item,
            data.events.time,
            data.events.context["hour"],
            data.events.context["weekday"],
            strict=True,
        )
    }
    assert told[("l1", 7300)] == ("2", "thu")
    assert told[("t1", 400)] == ("9", "thu")
    assert told[("t1", 90000)] == ("10", "fri")
    assert told[("s", 1000)] == ("22", "wed"), "two hours behind, it is still the year before"


def test_hours_follow_from_dates_in_every_block_of_a_file_that_begins_with_dates(tmp_path):
    dates, seconds = "l1,a,202011220900\nl2,a,202011220930\n", "".join(f"l1,b,{7300 + i}\n" for i in range(5))
    data = walks(tmp_path, HEAD + dates + seconds + "l3,c,202011221000\n", schema=SCHEMA + CLOCK, block=64)
    assert sorted(data.vocab.values["context.hour"]) == ["10", "2", "9"]


def test_a_city_has_one_time(tmp_path):
    spots = "spot,lat,lon,town\n" + "".join(f"p{i},28,{-82.6 + 0.06 * i},T\n" for i in range(5)) + "q,28,,T\n"
    events = "town,spot,who,when\n" + "".join(f"T,p{i},a,{100 + i}\n" for i in range(5)) + "T,q,a,200\n"
    data = walks(tmp_path, events, spots, SCHEMA + CLOCK, files="")
    assert list(data.vocab.values["context.hour"]) == ["19"], "-82.6 / 15 alone would be another zone"
    assert len(data.events) == 6


def test_hours_that_the_table_has_are_taken_from_it(tmp_path):
    data = walks(tmp_path, HEAD.replace("\n", ",hour,weekday\n") + "l1,a,100,late,some\n", schema=SCHEMA + CLOCK)
    assert list(data.vocab.values["context.hour"]) == ["late"]
    assert list(data.vocab.values["context.weekday"]) == ["some"]


def test_hours_without_longitudes_are_missing_columns(tmp_path):
    schema = 'name = "r"\nentity = "who"\nitem = "spot"\ntime = "when"\n[[context]]\nname = "hour"\n'
    with pytest.raises(DataError, match="the column is missing") as caught:
        walks(tmp_path, items=None, schema=schema, files="")
    assert caught.value.field == "hour"


def test_a_visit_to_nowhere_is_refused(tmp_path):
    spots = SPOTS + "x,,\ny,51.5,\n"
    events = WALKS + "x,a,600\ny,a,700\nunheard,a,800\n,a,900\n"
    with pytest.raises(DataError, match="'x' has no usable coordinates, so it lies in no city") as caught:
        walks(tmp_path, events, spots)
    assert (caught.value.line, caught.value.field) == (10, "spot")
    assert "latitude" in caught.value.remedy
    data = walks(tmp_path, events, spots, on_error="skip")
    assert data.about["rows_rejected"] == {"events": 4}
    assert data.about["rows_read"] == 12
    assert data.digest == walks(tmp_path / "good").digest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": SCHEMA.replace('name = "lat"', 'name = "height"')}, "features 'lat' and 'lon'"),
        ({"schema": 'name = "u"\nentity = "who"\nitem = "spot"\n'}, "needs the objective 'choice'"),
        ({"events": "town," + WALKS.replace("\n", "\nX,", 8).replace("X,\n", "")}, "but the events have it"),
        ({"schema": SCHEMA + '[[entity_features]]\nname = "size"\n'}, "only 'lat' and 'lon' are known"),
        ({"files": "city_radius_km = 0\n"}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_made_is_said(tmp_path, change, says):
    with pytest.raises(ConfigError, match=says):
        walks(tmp_path, **change)


def test_clusters_find_towns_and_keep_to_the_radius():
    rng = np.random.default_rng(0)
    towns = np.array([[48.86, 2.35], [50.85, 4.35], [-33.9, 151.2], [64.1, -21.9], [0.5, 179.99]])
    which = rng.integers(0, 5, 2000)
    at = towns[which] + rng.normal(scale=0.05, size=(2000, 2))
    at[:, 1] = (at[:, 1] + 180) % 360 - 180  # the last town lies on both sides of the date line
    found = cluster_cities(at[:, 0], at[:, 1], rng.integers(0, 9, 2000), 40)
    assert len(found.names) == len(set(found.names)) == 5
    table = pd.crosstab(which, found.city)
    assert ((table > 0).sum(axis=1) == 1).all()
    assert ((table > 0).sum(axis=0) == 1).all()
    order = [int(np.argmax(table.loc[t])) for t in range(4)]
    assert np.abs(found.lat[order] - towns[:4, 0]).max() < 0.1


def test_a_wide_plain_is_cut_into_many_cities():
    rng = np.random.default_rng(1)
    lat, lon = rng.uniform(40, 44, 5000), rng.uniform(0, 5, 5000)
    found = cluster_cities(lat, lon, np.ones(5000, int), 30)
    away = np.hypot(lat - found.lat[found.city], (lon - found.lon[found.city]) * np.cos(np.radians(42))) * 111.2
    assert away.max() < 30 * 1.4
    assert 30 < len(found.names) < 150
    turn = rng.permutation(5000)
    again = cluster_cities(lat[turn], lon[turn], np.ones(5000, int), 30)
    assert (np.array(again.names)[again.city] == np.array(found.names)[found.city][turn]).all()


def test_clusters_of_nothing():
    found = cluster_cities(np.array([np.nan, 1]), np.array([2, np.nan]), np.array([3, 4]), 40)
    assert found.city.tolist() == [-1, -1]
    assert found.names == []
