"""`recommend` and `adapt` with rows that have a context, and entities with items of their own."""

import json
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch.event_files import LINE_COLUMN, event_tables, interactions_of, read_events
from recsys_meta.core.dataset import Vocabulary
from recsys_meta.core.errors import DataError
from recsys_meta.core.feature_tensors import encode_raw
from recsys_meta.core.schema import FeatureField
from recsys_meta.inference.one_shot import recommend
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.context_fields import ContextFields
from recsys_meta.inference.requests.entity import EntityRequest, Interaction, QueryContext
from recsys_meta.models.bundle import save_bundle
from tests.fixtures import stub_predictors as choosing


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    with choosing.registered():
        yield {"ads": save_bundle(choosing.clicks(), root), "cities": save_bundle(choosing.visits(), root)}


@pytest.fixture
def town(tmp_path):
    """Check-ins of two cities."""
    path = tmp_path / "town.csv"
    rows = [f"{'ab'[n % 2]},place{n % 7},{n},u{n % 3},{50 + n % 7},8,{n % 24}," for n in range(20)]
    path.write_text("\n".join(["entity,item,time,actor,lat,lon,hour,note", *rows]) + "\n")
    return path


def told(path, city=None):
    frame = pd.read_csv(path)
    return [
        Interaction(
            r.item, None, float(r.time), {"lat": float(r.lat), "lon": float(r.lon), "hour": float(r.hour)}, r.actor
        )
        for r in frame.itertuples()
        if city in (None, r.entity)
    ]


def test_columns_of_the_models_context_are_read_and_others_left(town):
    fields = Recommender(choosing.visits()).reader.fields
    assert read_events(town, fields) == told(town)
    assert read_events(town)[3] == Interaction("place3", None, 3.0, {}), "without a model there is no context"


def test_recommend_answers_for_an_actor_at_a_moment(command, bundles, town):
    words = ("--events", town, "--actor", "u1", "--context", "hour=12", "-n", "5")
    found = command.json("recommend", bundles["cities"], *words)
    offline = recommend(
        Recommender(choosing.visits()), EntityRequest(events=told(town)), 5, context=QueryContext({"hour": 12}, "u1")
    )
    assert [(i["item"], i["score"]) for i in found["items"]] == [(s.item, s.score) for s in offline.items]
    assert found["support_size"] == 20
    there = command.json("recommend", bundles["cities"], "--events", town, "--at", "56.0,8")["items"]
    assert there[0]["item"] == "place6"
    only = command.json("recommend", bundles["cities"], "--candidates", "k1,k2,none", "--at", "40.021,-70")
    assert [i["item"] for i in only["items"]] == ["k2", "k1"] and only["unknown_items"] == ["none"]
    assert "LATITUDE,LONGITUDE" in command("recommend", bundles["cities"], "--at", "here", code=1)
    assert "from -90 to 90" in command("recommend", bundles["cities"], "--at", "95,1", code=1)


def test_adapt_writes_what_recommend_says_for_every_city(command, bundles, town, tmp_path):
    out = tmp_path / "out.parquet"
    assert command.json("adapt", bundles["cities"], "--events", town, "--out", out, "-n", "4")["entities"] == 2
    rows = pq.read_table(out).to_pylist()
    recommender = Recommender(choosing.visits())
    for row in rows:
        alone = recommend(recommender, EntityRequest(events=told(town, row["entity"])), 4)
        assert row["items"] == [s.item for s in alone.items] and row["support_size"] == 10
        assert row["scores"] == pytest.approx([s.score for s in alone.items], abs=1e-5)


def test_clicks_are_read_with_their_contexts(command, bundles, tmp_path):
    path = tmp_path / "clicks.jsonl"
    events = [
        {"entity": "x", "item": "p1", "label": 1, "context": {"position": 3, "device": "desktop"}},
        {"entity": "x", "item": "p1", "label": 0},
        {"entity": "y", "item": "p2", "label": 0, "context": {"position": 0}},
    ]
    path.write_text("\n".join(map(json.dumps, events)))
    fields = Recommender(choosing.clicks()).reader.fields
    assert [e.context for e in read_events(path, fields)] == [{"position": 3, "device": "desktop"}, {}, {"position": 0}]
    near, far = (
        command.json("recommend", bundles["ads"], "--events", path, "--context", f"position={p}")["items"]
        for p in (0, 2)
    )
    assert near[0]["score"] - far[0]["score"] == pytest.approx(1.0, abs=1e-5)
    out = tmp_path / "out.parquet"
    assert command.json("adapt", bundles["ads"], "--events", path, "--out", out)["entities"] == 2


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("p1,1,top,mobile", "'top' is not a number"),
        ("p1,0.5,1,mobile", "is not a click"),
        (",1,1,mobile", "the item is empty"),
    ],
)
def test_wrong_rows_are_named(command, bundles, tmp_path, row, says):
    path = tmp_path / "clicks.csv"
    path.write_text(f"item,label,position,device\np1,0,1,mobile\n{row}\n")
    assert says in command("recommend", bundles["ads"], "--events", path, code=1)


def test_degrees_beyond_the_globe_are_named_with_their_line(command, bundles, tmp_path):
    path = tmp_path / "town.csv"
    path.write_text("item,lat,lon\nx,1,2\ny,91,2\n")
    message = command("recommend", bundles["cities"], "--events", path, code=1)
    assert "line 3" in message and "'lat'" in message and "91" in message


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_that_does_not_fit_is_adapted_in_parts_with_the_same_lists(
    command, bundles, tmp_path, suffix, monkeypatch
):
    frame = pd.DataFrame(
        {
            "entity": [f"city {n * n % 11}" for n in range(300)],
            "item": [f"place{n % 7}" for n in range(300)],
            "time": range(300),
            "actor": [f"u{n % 3}" if n > 150 else None for n in range(300)],
            "lat": [50.0 + n % 7 if n % 5 else None for n in range(300)],
            "hour": pd.array([n % 24 if n > 200 else None for n in range(300)], dtype="Int64"),
        }
    )
    path, whole, parts = tmp_path / f"events.{suffix}", tmp_path / "whole.parquet", tmp_path / "parts.parquet"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    assert command.json("adapt", bundles["cities"], "--events", path, "--out", whole)["entities"] == 6
    monkeypatch.setattr("pipelines.batch.entity_partitioning.PARTITION_ROWS", 60)
    monkeypatch.setattr("pipelines.batch.event_files.BLOCK_ROWS", 70)
    assert command.json("adapt", bundles["cities"], "--events", path, "--out", parts)["entities"] == 6
    one, other = ({r["entity"]: r for r in pq.read_table(p).to_pylist()} for p in (whole, parts))
    assert one.keys() == other.keys()
    for entity, row in one.items():
        assert other[entity]["items"] == row["items"] and other[entity]["support_size"] == row["support_size"]
        assert other[entity]["scores"] == pytest.approx(row["scores"], abs=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"events.{suffix}", "parts.parquet", "whole.parquet"]
    bad = frame.assign(time=[*range(250), *["soon"] * 50]) if suffix == "csv" else frame.assign(lat=95.0)
    bad.to_csv(path, index=False) if suffix == "csv" else bad.to_parquet(path)
    message = command("adapt", bundles["cities"], "--events", path, "--out", parts, code=1)
    assert re.search(r"line \d+", message) and ("'soon'" in message or "'lat'" in message)
    if suffix == "csv":
        assert int(re.search(r"line (\d+)", message)[1]) >= 252


def test_times_are_numbers_or_moments_from_1970_on(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text("item,time\nx,1000\nz,1970-01-01T00:00:01Z\nw,4000-01-01\nv,1001.5\n")
    assert [e.time for e in read_events(path)] == [1000, 1, 64060588800, 1001.5]
    path.write_text("item,time\nx,1000\ny,1000-01-01\n")
    with pytest.raises(DataError, match=r"line 3, field 'time'.*before 1970"):
        read_events(path)


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_times_of_files_may_be_milliseconds(tmp_path, suffix):
    """They were read as seconds: a time forty thousand years from now is later than every other."""
    path = tmp_path / f"events.{suffix}"
    frame = pd.DataFrame({"item": ["x", "y"], "time": [1769860800123, 1769860800]})
    match suffix:
        case "csv":
            frame.to_csv(path, index=False)
        case "parquet":
            frame.to_parquet(path)
        case _:
            frame.to_json(path, orient="records", lines=suffix == "jsonl")
    assert [e.time for e in read_events(path)] == [1769860800.123, 1769860800]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet", "mixed.json"])
def test_values_of_lists_in_files_stay_one_though_they_hold_the_separator(tmp_path, suffix):
    field = FeatureField(name="tags", kind="multi")
    fields, path = ContextFields(item=[field]), tmp_path / f"events.{suffix}"
    frame = pd.DataFrame({"entity": "e", "item": ["x", "y", "z"], "tags": [["a|b", "c"], ["a|b"], None]})
    if "mixed" in suffix:
        frame.loc[2, "tags"] = "c|a"
    if suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=suffix == "jsonl")
    parts = [
        t.to_pandas(types_mapper=pd.ArrowDtype).set_index(LINE_COLUMN) for t in event_tables(path, ["item", "tags"])
    ]
    vocab = Vocabulary({"item.tags": pd.Index(["a", "a|b", "b", "c"], dtype="str")})
    last = [5, 2] if "mixed" in suffix else [0, 0]
    for events in (read_events(path, fields), interactions_of(path, pd.concat(parts), fields)):
        ids = encode_raw([field], vocab, "item", [event.context for event in events])["tags"]
        assert ids.tolist() == [[3, 5], [3, 0], last]


def test_columns_of_parquet_keep_their_types(tmp_path):
    """A whole number stays one where others are missing, and a moment is one."""
    path = tmp_path / "events.parquet"
    moments = pa.array([5_000_000, None, 7_500_000], pa.timestamp("us"))
    columns = {"item": [1, 2, 3], "label": [1, None, 0], "device": [7, None, 8], "position": [1.5, None, None]}
    pq.write_table(pa.table({**columns, "time": moments}), path)
    events = read_events(path, Recommender(choosing.clicks()).reader.fields)
    assert [e.context for e in events] == [{"device": 7, "position": 1.5}, {}, {"device": 8}]
    assert [(e.item, e.label, e.time) for e in events] == [("1", 1, 5), ("2", None, None), ("3", 0, 7.5)]
    assert all(isinstance(e.context.get("device", 0), int) for e in events)
