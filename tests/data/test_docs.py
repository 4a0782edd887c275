"""docs/data.md says what is so."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys_meta.data import SOURCES, prepare_custom, prepare_named
from recsys_meta.data.sources.toml_schema import SchemaFiles
from tests.data.source_files import cells

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_data_set_is_listed():
    listed = set(re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE, re.MULTILINE))
    assert listed == set(SOURCES)


def test_every_option_of_files_is_named():
    for name in SchemaFiles.model_fields:
        assert f"{name} = " in PAGE or f"`{name}`" in PAGE


EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_schema_works(tmp_path):
    (tmp_path / "schema.toml").write_text(EXAMPLES[0])
    (tmp_path / "purchases.csv").write_text(
        "customer,product,stars,bought_at\n007,p1,5,2026-01-31T12:00:00Z\n007,p2,2,1769860801\nx y,p1,4,2026-02-01\n"
    )
    (tmp_path / "customers.csv").write_text("customer,country,age\n007,UK,40\nx y,,\n")
    products = {"product": ["p1", "p2"], "tags": ["red|big", ""], "name": ["The Lamp", "A shade!"]}
    pd.DataFrame(products).to_parquet(tmp_path / "products.parquet")
    data = prepare_custom(tmp_path / "schema.toml", tmp_path / "out")
    assert list(data.events.time) == [1769860800, 1769860801, 1769904000]
    assert cells(data, "entity", "country") == [["?"], []]
    assert cells(data, "item", "tags") == [[], [], ["red", "big"], []]
    assert cells(data, "item", "words") == [[], [], ["the", "lamp"], ["a", "shade"]]
    assert data.about["titles"] == {"p1": "The Lamp", "p2": "A shade!"}


def test_the_example_of_ads_works(tmp_path):
    (tmp_path / "schema.toml").write_text(EXAMPLES[1])
    (tmp_path / "log.csv").write_text(
        "banner,visitor,clicked,shown_at,page_view,position,price\nb1,v1,1,100,x,1,2.5\nb2,v1,0,100,x,2,\n"
    )
    data = prepare_custom(tmp_path / "schema.toml", tmp_path / "out")
    assert data.events.group.tolist() == [0, 0]
    assert np.isnan(data.events.context["cost"]).tolist() == [False, True]


PLACES = "place,lat,lon,sort{}\np1,40.75,-73.98,bar{}\np2,40.70,-74.00,park{}\np3,35.7,139.7,bar{}\n"


@pytest.mark.parametrize("made", [False, True], ids=["towns given", "towns made"])
def test_the_example_of_cities_works(tmp_path, made):
    schema, places = EXAMPLES[2], PLACES.format(",town", ",A", ",A", ",B")
    visits = "town,place,person,at\nA,p1,x,3600\nA,p2,x,7200\nB,p3,y,0\n"
    if made:
        schema = schema.replace("[files]", "[files]\ncity_radius_km = 40")
        places, visits = PLACES.format("", "", "", ""), visits.replace("town,", "").replace("A,", "").replace("B,", "")
    (tmp_path / "schema.toml").write_text(schema)
    (tmp_path / "visits.csv").write_text(visits)
    (tmp_path / "places.csv").write_text(places)
    data = prepare_custom(tmp_path / "schema.toml", tmp_path / "out")
    assert sorted(data.events.counts.tolist()) == [1, 2]
    assert sorted(data.vocab.values["context.hour"], key=int) == ["9", "20", "21"]
    assert sorted(data.ownership.owner.tolist())[:2] == [-1, -1]


def test_every_source_is_told_with_its_wanted_files():
    for name, source in SOURCES.items():
        if source.load is not None:
            assert set(source.folder_names) & {name, *re.findall(r"`([a-z0-9-]+)`", PAGE)}
        assert bool(source.url) or bool(source.manual_download) or source.simulate is not None


def test_the_figures_of_the_simulators_are_right(tmp_path):
    for name, rows in (("simulated-users", "60,000"), ("simulated-ads", "60,000"), ("simulated-cities", "40,000")):
        line = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
        assert rows in line
        assert f"{len(prepare_named(name, tmp_path / name).events):,}" == rows
