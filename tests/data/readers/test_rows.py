"""What rows say beside entity, item and label: context, actor, group, and whose the items are."""

import csv

import numpy as np
import pandas as pd
import pytest

from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.core.types import FIRST, PAD, UNKNOWN
from recsys_meta.data import describe, open_dataset, prepare, prepare_custom, validate
from recsys_meta.data.readers.raw_tables import RawFeatureTable, RawTables, read_frame
from tests.data.source_files import write

SHOWN = """
name = "shown"
kind = "ad"
objective = "click"
entity = "ad"
item = "user"
actor = "user"
group = "list"
label = "click"
time = "time"
[[context]]
name = "position"
[[context]]
name = "site"
min_count = 2
[[context]]
name = "cost"
column = "price"
kind = "numeric"
"""
HEAD = "ad,user,list,click,time,position,site,price\n"
LISTS = HEAD + (
    "a10,u2,L2,0,200,1,x,1.5\n"
    "a9,u2,L2,1,200,2,x,\n"
    "a10,u1,L1,0,100,2, y ,nan\n"
    "a9,u1,L1,0,100,,x,-0\n"
)  # fmt: skip


def shown(folder, text=LISTS, schema=SHOWN, on_error="fail", block=2**20, **files):
    """Prepare a log of shown lists."""
    return prepare_custom(write(folder / "raw", text, schema, **files), folder / "out", on_error, block=block)


@pytest.mark.parametrize("block", [1, 30, 2**20])
def test_every_cell_of_a_row_comes_back(tmp_path, block):
    data = shown(tmp_path, block=block)
    events, vocab = data.events, data.vocab
    assert list(vocab.values["entity"]) == ["a10", "a9"]
    assert events.time.tolist() == [100, 200, 100, 200]
    assert list(vocab.values["context.position"]) == ["1", "2"]
    assert events.context["position"].tolist() == [FIRST + 1, FIRST, PAD, FIRST + 1]
    assert list(vocab.values["context.site"]) == ["x"]
    assert events.context["site"].tolist() == [UNKNOWN, FIRST, FIRST, FIRST], "y is rarer than min_count"
    np.testing.assert_array_equal(events.context["cost"], np.array([np.nan, 1.5, 0, np.nan], np.float32))
    assert events.actor.tolist() == [0, 1, 0, 1]
    assert events.group.tolist() == [0, 1, 0, 1]
    kinds = {k: v.dtype for k, v in events.context.items()}
    assert kinds == {"position": np.int32, "site": np.int32, "cost": np.float32}
    assert (events.actor.dtype, events.group.dtype) == (np.int32, np.int32)
    assert set(vocab.values) == {"entity", "item", "context.position", "context.site"}, "nobody is named twice"


def test_the_digest_holds_the_new_columns_and_no_order(tmp_path):
    base = shown(tmp_path / "a").digest
    lines = LISTS.splitlines()
    assert shown(tmp_path / "b", "\n".join([lines[0], *reversed(lines[1:])]) + "\n").digest == base
    changes = [(",1,x,1.5", ",3,x,1.5"), (",x,1.5", ",y,1.5"), (",1.5", ",1.25"), ("u1,L1,0,100,,", "u1,L3,0,100,,")]
    for i, (old, new) in enumerate(changes):
        assert old in LISTS
        assert shown(tmp_path / str(i), LISTS.replace(old, new)).digest != base, new


def test_any_rows_come_back_whatever_the_chunks_and_buckets(tmp_path):
    rng = np.random.default_rng(0)
    n = 500
    frame = pd.DataFrame(
        {
            "ad": rng.integers(0, 9, n).astype(str),
            "user": rng.integers(0, 40, n).astype(str),
            "list": rng.integers(0, 60, n).astype(str),
            "click": rng.integers(0, 2, n),
            "time": rng.integers(0, 5, n),
            "position": rng.choice(["", "p1", "p2"], n),
            "site": rng.choice(["", "s", "t"], n),
            "price": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n).astype(np.float32)),
        }
    )
    fields = [("position", "categorical"), ("site", "categorical"), ("price", "numeric")]
    schema = Schema(
        name="t",
        objective="click",
        entity="ad",
        item="user",
        label="click",
        time="time",
        actor="user",
        group="list",
        context=tuple(FeatureField(name=name, kind=kind) for name, kind in fields),
    )
    made = [
        prepare(RawTables(schema, read_frame("t", f), duplicates="keep"), tmp_path / str(i), block=b, bucket=s)
        for i, (f, b, s) in enumerate([(frame, 2**20, 2**20), (frame.sample(frac=1, random_state=1), 640, 7)])
    ]
    assert made[0].digest == made[1].digest
    for data in made:
        e = data.events
        entity = data.vocab.values["entity"][np.repeat(np.arange(e.entity_count), e.counts)]
        user = data.vocab.values["item"][np.asarray(e.item) - FIRST]
        back = pd.DataFrame({"ad": entity, "user": user, "click": e.label.astype(int), "time": e.time})
        for name in ("position", "site"):
            values = np.array([*["", "?"], *data.vocab.values[f"context.{name}"]])
            back[name] = values[np.asarray(e.context[name])]
        back["price"] = np.asarray(e.context["price"])
        lists = np.array(sorted(set(frame["list"]), key=int))
        back["list"] = lists[np.asarray(e.group)]
        assert (np.array(sorted(set(frame["user"]), key=int))[np.asarray(e.actor)] == user).all()
        key = list(frame)
        want = frame.astype({"price": np.float32}).sort_values(key, ignore_index=True)
        pd.testing.assert_frame_equal(
            back[key].sort_values(key, ignore_index=True), want, check_dtype=False, check_exact=True
        )


BAD = [
    ("a1,u1,L1,2,100,1,x,1", "click", "'2' is neither 0 nor 1"),
    ("a1,u1,,0,100,1,x,1", "list", "is empty"),
    ("a1,,L1,0,100,1,x,1", "user", "is empty"),
    ("a1,u1,L1,0,100,1,x,cheap", "price", "'cheap' is not a finite number"),
    ("a1,u1,L1,0,100,1,x,inf", "price", "is not a finite number"),
    ("a1,u1,L1,0,100,1,x,1e39", "price", "is not a finite number"),
    ("a9,u1,L1,1,100,2,x,9", "user", "repeats an earlier row: the same entity, item, time, actor and group"),
]


@pytest.mark.parametrize(("row", "field", "says"), BAD, ids=[r for r, _, _ in BAD])
def test_a_bad_cell_is_named_with_line_field_and_remedy(tmp_path, row, field, says):
    with pytest.raises(DataError) as caught:
        shown(tmp_path, LISTS + row + "\n")
    error = caught.value
    assert says in error.problem
    assert (error.line, error.field) == (6, field)
    assert "events.csv" in str(error.file)
    assert error.remedy


def test_skipped_rows_leave_no_trace(tmp_path):
    text = LISTS + "".join(f"{row}\n" for row, _, _ in BAD)
    data = shown(tmp_path, text, on_error="skip")
    assert data.digest == shown(tmp_path / "good").digest
    assert data.about["rows_rejected"] == {"events": len(BAD)}
    assert not validate(tmp_path / "raw" / "schema.toml").ok


def test_another_list_at_the_same_moment_is_no_repetition(tmp_path):
    data = shown(tmp_path, LISTS + "a9,u1,L9,0,100,1,x,1\n")
    assert len(data.events) == 5


def test_without_times_only_equal_rows_repeat(tmp_path):
    schema = SHOWN.replace('time = "time"\n', "").replace('group = "list"\n', "")
    twice = HEAD + "a,u,L,1,,1,x,1\na,u,M,1,,2,x,1\na,u,N,1,,1,x,\na,u,O,1,,1,x,nan\n"
    with pytest.raises(DataError, match="repeats an earlier row") as caught:
        shown(tmp_path, twice, schema)
    assert caught.value.line == 5, "two prices that are missing are equal"


def test_a_list_without_a_click_is_allowed_and_told(tmp_path):
    data = shown(tmp_path)
    assert "1 of 2 groups of 'list' have no click" in data.about["warnings"]
    found = describe(data)
    assert found["about"]["warnings"] == data.about["warnings"]
    assert (found["actors"], found["groups"]) == (2, 2)
    assert found["rows_of_a_group"]["most"] == 2
    assert found["context"] == [
        {"name": "position", "kind": "ids", "values": 2, "missing": 0.25},
        {"name": "site", "kind": "ids", "values": 1, "missing": 0.0},
        {"name": "cost", "kind": "numeric", "missing": 0.5},
    ]
    clicked = shown(tmp_path / "b", LISTS.replace("u1,L1,0,100,2", "u1,L1,1,100,2"))
    assert not any("click" in warning for warning in clicked.about["warnings"])


def test_parquet_rows_are_read_alike(tmp_path):
    frame = pd.read_csv(write(tmp_path / "raw", LISTS, SHOWN).parent / "events.csv", dtype={"position": "Int64"})
    frame.to_parquet(tmp_path / "raw" / "events.parquet")
    path = tmp_path / "raw" / "schema.toml"
    path.write_text(path.read_text().replace("events.csv", "events.parquet"))
    assert prepare_custom(path, tmp_path / "p").digest == shown(tmp_path / "c").digest


def test_damage_to_a_new_column_is_noticed(tmp_path):
    shown(tmp_path)
    path = tmp_path / "out" / "events.context.cost.npy"
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(DataError, match="not what was written"):
        open_dataset(tmp_path / "out", verify=True)
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        open_dataset(tmp_path / "out")


VISITS = """
name = "visits"
kind = "city"
objective = "choice"
entity = "city"
item = "place"
actor = "who"
time = "time"
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
WALKS = "city,place,who,time\nB,p3,z,30\nA,p1,x,20\nA,p2,y,10\nA,p1,y,15\n"
PLACES = "place,lat,lon,town\np1,1,2,A\np2,,,A\np3,-90,180,B\np4,0,0,A\np5,0,0,C\n"


def visits(folder, events=WALKS, items=PLACES, on_error="fail", block=2**20):
    return prepare_custom(write(folder / "raw", events, VISITS, items=items), folder / "out", on_error, block=block)


@pytest.mark.parametrize("block", [1, 2**20])
def test_choices_out_of_an_entitys_own_items(tmp_path, block):
    data = visits(tmp_path, block=block)
    assert data.events.label.tolist() == [1] * 4, "a choice needs no label"
    assert data.events.time.tolist() == [10, 15, 20, 30], "out of order in the file, sorted here"
    assert data.events.actor.tolist() == [1, 1, 0, 2]
    assert data.ownership.owner.tolist() == [-1, -1, 0, 0, 1]
    found = describe(data)
    assert found["items_of_an_entity"]["most"] == 2
    assert found["items_of_nobody"] == 0
    assert found["labels"] == {}
    assert np.isnan(data.items["lat"].values[FIRST + 1]), "a place without coordinates is allowed"


def test_a_city_of_one_person_is_allowed(tmp_path):
    data = visits(tmp_path, "city,place,who,time\nB,p3,z,30\nB,p3,z,31\n")
    assert data.events.actor.tolist() == [0, 0]
    assert describe(data)["actors"] == 1


def test_an_item_at_home_nowhere_known_is_nobodys(tmp_path):
    schema = Schema(
        name="v",
        objective="choice",
        entity="city",
        item="place",
        actor="who",
        time="time",
        home="town",
        item_features=(FeatureField(name="town", min_count=2),),
    )
    walks = pd.DataFrame({"city": ["A", "A", "B"], "place": ["p", "q", "r"], "who": "x", "time": [1, 2, 3]})
    places = pd.DataFrame({"place": ["p", "q", "r"], "town": ["A", "A", "B"]})
    data = prepare(
        RawTables(schema, read_frame("w", walks), items=RawFeatureTable("place", read_frame("p", places))),
        tmp_path / "o",
    )
    assert data.ownership.owner.tolist() == [-1, -1, 0, 0, -1], "B is too rare to be a value of town"
    assert describe(data)["items_of_nobody"] == 1


WRONG = [
    ("B,p1,x,40", "place", "'p1' is at home in 'A', not in 'B'"),
    ("A,p9,x,40", "place", "'p9' has no home ('town' is empty)"),
    ("A,p1,,40", "who", "is empty"),
    ("A,p1,x,", "time", "is empty"),
    ("A,p1,x,20", "place", "repeats an earlier row: the same entity, item, time and actor"),
]


@pytest.mark.parametrize(("row", "field", "says"), WRONG, ids=[r for r, _, _ in WRONG])
def test_a_choice_that_cannot_be_one_is_refused(tmp_path, row, field, says):
    with pytest.raises(DataError) as caught:
        visits(tmp_path, WALKS + row + "\n")
    error = caught.value
    assert says in error.problem
    assert (error.line, error.field) == (6, field)
    assert error.remedy


def test_choices_that_cannot_be_are_left_out_when_asked(tmp_path):
    data = visits(tmp_path, WALKS + "".join(f"{r}\n" for r, _, _ in WRONG), on_error="skip")
    assert data.digest == visits(tmp_path / "good").digest
    with (tmp_path / "out" / "rejects.csv").open(newline="") as file:
        listed = {int(r["line"]): r["reason"] for r in csv.DictReader(file)}
    assert listed[6] == WRONG[0][2]
    assert sorted(listed) == [6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("row", "field", "says"),
    [
        ("p6,90.5,0,A", "lat", "'90.5' is outside -90 to 90"),
        ("p6,0,-180.001,A", "lon", "'-180.001' is outside -180 to 180"),
        ("p6,north,0,A", "lat", "'north' is not a finite number"),
    ],
)
def test_coordinates_are_degrees(tmp_path, row, field, says):
    with pytest.raises(DataError) as caught:
        visits(tmp_path, items=PLACES + row + "\n")
    assert says in caught.value.problem
    assert (caught.value.line, caught.value.field) == (7, field)


def test_homes_may_stand_in_the_events(tmp_path):
    schema = VISITS.replace('name = "town"', 'name = "town"\ncolumn = "city"')
    head, rows = "city,place,who,time,lat,lon\n", "A,p1,x,1,1,2\nA,p1,y,2,1,2\nB,p2,x,3,0,0\n"
    data = prepare_custom(write(tmp_path / "raw", head + rows, schema), tmp_path / "out")
    assert data.ownership.owner.tolist() == [-1, -1, 0, 1]
    for block in (1, 2**20):
        with pytest.raises(DataError, match="'p1' is at home in 'A', not in 'B'") as caught:
            prepare_custom(write(tmp_path / "two", head + rows + "B,p1,x,9,1,2\n", schema), tmp_path / "x", block=block)
        assert caught.value.line == 5


def test_homes_need_a_table(tmp_path):
    schema = Schema(
        name="v",
        objective="choice",
        entity="city",
        item="place",
        actor="who",
        time="time",
        home="town",
        item_features=(FeatureField(name="town"),),
    )
    walks = pd.DataFrame({"city": ["A"], "place": ["p"], "who": ["x"], "time": [1]})
    with pytest.raises(DataError, match="no item table with the feature 'town'"):
        prepare(RawTables(schema, read_frame("w", walks)), tmp_path / "o")
