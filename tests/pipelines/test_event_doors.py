"""One reader at every door: event files of any form say to a model what they would have said in its training data."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipelines.batch.batch_inference import new_summary
from pipelines.batch.event_files import EventFormat, read_events
from pipelines.batch.event_summary import EventSummary
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.data import prepare_custom
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.context_fields import ContextFields
from tests.fixtures import stub_predictors

EVENTS = pd.DataFrame(
    {
        "entity": ["ann", "ann", "Zoë", "bob"],
        "item": ["i1", "i2", "i1", "i3"],
        "time": [1.6e9, 1.6e9 + 1, 1.6e9 + 2, 1.6e9],
    }
)


def write(frame: pd.DataFrame, path, **options) -> None:
    match path.name.partition(".")[2]:
        case "parquet":
            frame.to_parquet(path)
        case "feather":
            frame.to_feather(path)
        case "json":
            path.write_text(frame.to_json(orient="records"))
        case "jsonl":
            path.write_text(frame.to_json(orient="records", lines=True))
        case "jsonl.gz" | "pack":
            path.write_bytes(gzip.compress(frame.to_json(orient="records", lines=True).encode()))
        case _:
            frame.to_csv(path, index=False, **options)


FORMS = {
    "plain.csv": {},
    "semicolon.csv": {"sep": ";"},
    "tab.tsv": {"sep": "\t"},
    "latin.csv": {"encoding": "latin-1"},
    "excel.txt": {"encoding": "utf-16", "sep": "\t"},
    "mark.csv": {"encoding": "utf-8-sig"},
    "packed.csv.gz": {},
    "packed.csv.zip": {},
    "events.json": {},
    "events.jsonl": {},
    "events.jsonl.gz": {},
    "events.pack": {},
    "events.parquet": {},
    "events.feather": {},
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_file_is_read_alike(tmp_path, name):
    path = tmp_path / name
    write(EVENTS, path, **FORMS[name])
    assert [(e.item, e.label, e.time) for e in read_events(path)] == [
        (item, None, time) for item, time in zip(EVENTS["item"], EVENTS["time"], strict=True)
    ]


@pytest.mark.parametrize("name", ["semicolon.csv", "latin.csv", "events.jsonl.gz", "events.feather"])
def test_adapt_reads_what_prepare_reads(command, model, items, tmp_path, name):
    known = EVENTS.assign(item=[items[0], items[1], items[0], items[2]])
    whole, path = tmp_path / "plain.csv", tmp_path / name
    known.to_csv(whole, index=False)
    write(known, path, **FORMS[name])
    answers = []
    for events in (whole, path):
        out = tmp_path / "out.parquet"
        made = command.json("adapt", model, "--events", events, "--out", out)
        assert made["entities"] == 3
        answers.append(sorted(pq.read_table(out).to_pylist(), key=lambda r: r["entity"]))
        assert (made["warnings"] != []) == (name == "latin.csv" and events == path), made["warnings"]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("spelling", ["{}.0", "00{}", "item {}"])
def test_ids_that_are_written_in_another_way_are_a_loud_warning(command, model, items, tmp_path, spelling):
    path, out = tmp_path / "events.csv", tmp_path / "out.parquet"
    strange = [spelling.format(item) for item in items]
    pd.DataFrame({"entity": ["ann", "bob", "eve"] * 3, "item": strange}).to_csv(path, index=False)
    (warning,) = command.json("adapt", model, "--events", path, "--out", out)["warnings"]
    assert re.search(rf"none of 9 events .*'{re.escape(strange[0])}'.*the model '", warning)
    said = command("adapt", model, "--events", path, "--out", out)
    assert said == "", "a warning is no result"
    known = pd.DataFrame({"entity": ["ann"] * 9, "item": [*strange[:8], items[0]]})
    known.to_csv(path, index=False)
    assert command.json("adapt", model, "--events", path, "--out", out)["warnings"] == [], "one in nine is known"


def test_recommend_warns_too(command, model, items, tmp_path, capfd):
    path = tmp_path / "events.csv"
    path.write_text("item,time\n" + "".join(f"00{i},20201122\n" for i in items))
    assert "none of 9 events" in _complaint(command, "recommend", model, "--events", path)
    path.write_text("item,time\n" + "".join(f"{i},5\n" for i in items))
    assert "before 1990" in _complaint(command, "recommend", model, "--events", path)
    path.write_text("item,time\n" + "".join(f"{i},20201122\n" for i in items))
    assert "warning" not in _complaint(command, "recommend", model, "--events", path)


def _complaint(command, *words: object) -> str:
    """What a command that succeeds says on standard error."""
    import contextlib
    import io
    import sys

    from pipelines.cli import main

    said = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        patch.setenv("RECSYS_META_HOME", str(command.home))
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", ["recsys-meta", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
    assert not left.value.code, said.getvalue()
    return said.getvalue()


SHOP = Schema(
    name="shop",
    entity="customer",
    item="product",
    label="did",
    label_values={"view": 1, "cart": 3},
    time="at",
    time_format="%d.%m.%Y %H:%M",
    time_zone="Europe/Berlin",
    context=(FeatureField(name="gift"), FeatureField(name="price", column="cost", kind="numeric")),
)


def test_the_columns_labels_and_times_of_the_models_schema_are_read(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text("customer;product;did;at;gift;cost\nann; 007 ;cart;31.01.2026 13:00;True;1.5\nann;7;2;;;\n")
    first, second = read_events(path, ContextFields.of_schema(SHOP), SHOP)
    assert first == ("007", 3, 1769860800, {"gift": "True", "price": 1.5}, None)
    assert second == ("7", 2, None, {}, None)
    path.write_text("customer;product;did\nann;7;buy\n")
    with pytest.raises(DataError, match=r"line 2, field 'label': 'buy' is none of view, cart"):
        read_events(path, ContextFields.of_schema(SHOP), SHOP)


def test_the_name_that_the_data_of_the_model_have_comes_before_that_of_the_api(tmp_path):
    path, fields = tmp_path / "events.csv", ContextFields.of_schema(SHOP)
    path.write_text("item,product,label,did,time,at,price,cost\nx,7,9,cart,5,31.01.2026 13:00,2.5,1.5\n")
    assert read_events(path, fields, SHOP) == [("7", 3, 1769860800, {"price": 1.5}, None)]
    path.write_text("item,label,time,context.price\nx,1,31.01.2026 13:00,2.5\n")
    assert read_events(path, fields, SHOP) == [("x", 1, 1769860800, {"price": 2.5}, None)]


@pytest.mark.parametrize(
    ("header", "sources"),
    [
        ("item,user", {"entity": "item", "item": "user"}),
        ("entity,item", {"entity": "entity", "item": "item"}),
        ("entity,item,user", {"entity": "item", "item": "user"}),
        ("item", {"item": "item"}),
        ("user", {"item": "user"}),
    ],
)
def test_where_the_entity_is_called_item_a_file_is_read_by_one_convention(header, sources):
    ads = Schema(name="ads", entity="item", item="user")
    assert EventFormat(schema=ads).sources(header.split(","), ("entity", "item", "label")) == sources


def test_one_column_may_be_actor_and_item_where_the_data_say_so():
    people = Schema(name="ads", entity="ad", item="user", actor="user")
    form = EventFormat(ContextFields.of_schema(people), people)
    assert form.sources(["ad", "user"], form.columns) == {"entity": "ad", "item": "user", "actor": "user"}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_list_in_a_cell_of_a_category_is_the_category_that_it_was_in_the_data(tmp_path, suffix):
    field = FeatureField(name="place", separator=" / ")
    schema = Schema(name="shop", entity="entity", context=(field,))
    path = tmp_path / f"events.{suffix}"
    write(pd.DataFrame({"entity": ["a", "b"], "item": ["x", "y"], "place": [["shop", "window"], ["door"]]}), path)
    (tmp_path / "schema.toml").write_text(
        f'name = "shop"\nentity = "entity"\n[files]\nevents = "{path.name}"\n[[context]]\nname = "place"\n'
        'separator = " / "\n'
    )
    prepared = prepare_custom(tmp_path / "schema.toml", tmp_path / "out")
    expected = ["door", "shop / window"]
    assert sorted(prepared.vocab.values["context.place"]) == expected
    events = read_events(path, ContextFields.of_schema(schema), schema)
    assert sorted(e.context["place"] for e in events) == expected


def test_the_numbers_of_a_file_of_several_blocks_are_dates_in_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.batch.event_files.BLOCK_ROWS", 1)
    path = tmp_path / "events.csv"
    path.write_text("item,time\n" + "x,20201122\n" * 3 + "y,5\n" * 6 + "y,20201123\n")
    times = [e.time for e in read_events(path)]
    assert times == [1606003200] * 3 + [5] * 6 + [1606089600]


def test_steps_of_a_clock_are_nothing_unusual_where_the_schema_names_their_unit():
    times = pd.Series([1.0, 2.0])
    for unit, count in (("s", 0), (None, 1)):
        summary = EventSummary(time_format=unit)
        summary.add(pd.Series(["x", "y"]), times)
        assert len(summary.warnings) == count
    shown = stub_predictors.clicks()
    shown = replace(shown, schema=shown.schema.model_copy(update={"time_format": "ms"}))
    assert new_summary(Recommender(shown)).time_format == "ms"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "feather"])
def test_lines_and_columns_of_what_is_wrong_are_named(tmp_path, suffix):
    path = tmp_path / f"events.{suffix}"
    write(pd.DataFrame({"item": ["a", "b", "c"], "time": ["1", "soon", "3"]}), path)
    with pytest.raises(DataError, match=rf"line {3 if suffix == 'csv' else 2}, field 'time': 'soon' is not a time"):
        read_events(path)


@pytest.mark.parametrize(
    ("values", "says"),
    [([1.5, 2.0], "fractional"), ([True, False], "booleans"), ([pd.Timestamp(2026, 1, 1)] * 2, "times")],
)
def test_what_is_no_id_for_prepare_is_none_for_adapt(tmp_path, values, says):
    path = tmp_path / "events.parquet"
    pd.DataFrame({"entity": ["a", "b"], "item": values}).to_parquet(path)
    with pytest.raises(DataError, match=says) as caught:
        read_events(path)
    assert caught.value.field == "item"


def test_whole_numbers_of_a_column_with_gaps_are_ids(tmp_path):
    path = tmp_path / "events.parquet"
    pd.DataFrame({"item": np.array([1.0, 2.0])}).to_parquet(path)
    assert [e.item for e in read_events(path)] == ["1", "2"]


def test_json_that_is_cut_or_no_table_is_one_line(command, model, tmp_path):
    path, out = tmp_path / "events.json", tmp_path / "out.parquet"
    for text in (
        '[{"entity": "a", "item": "b"}',
        "5",
        '"x"',
        "[1, 2]",
        '{"a": 1',
        "[[[",
        "{}",
        json.dumps({"a": [1], "b": [1, 2]}),
    ):
        path.write_text(text)
        message = command("adapt", model, "--events", path, "--out", out, code=1)
        assert str(path) in message and message.strip().count("\n") == 0, (text, message)


def test_a_file_without_a_row_and_a_folder_are_told(tmp_path):
    assert "there are no events" in EventSummary(["i1"]).warnings[0]
    with pytest.raises(DataError, match="it is a folder"):
        read_events(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_events(tmp_path / "nothing.csv")
