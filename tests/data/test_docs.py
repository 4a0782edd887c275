"""docs/data.md says what is so."""

import re
from pathlib import Path

import pandas as pd

from recsys_meta.data import SOURCES, prepare_custom
from recsys_meta.data.custom import Files
from tests.data.written import cells

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_data_set_is_listed():
    listed = set(re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE, re.MULTILINE))
    assert listed == set(SOURCES)


def test_every_option_of_files_is_named():
    for name in Files.model_fields:
        assert f"{name} = " in PAGE or f"`{name}`" in PAGE


def test_the_example_schema_works(tmp_path):
    (tmp_path / "schema.toml").write_text(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])
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
