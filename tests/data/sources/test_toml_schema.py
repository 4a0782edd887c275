"""A user's own tables under a TOML schema: Parquet, many files, and wrong schemas."""

import datetime as dt

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.data import find_schema, prepare_custom
from tests.data.source_files import GOOD, HEAD, SCHEMA, bag, cells, prepared, rows, write

COLUMNS = {"user": [1, 1, 2], "item": ["i1", "i2", "i1"], "rating": [4.0, 5.0, 1.0], "time": [100, 200, 300]}


def parquet(folder, columns, schema=SCHEMA, name="events.parquet", **types):
    path = write(folder / "raw", None, schema, name=name)
    table = pa.table({k: pa.array(v, types.get(k)) for k, v in columns.items()})
    pq.write_table(table, folder / "raw" / name, row_group_size=2)
    return path


@pytest.mark.parametrize("block", [1, 2**20])
def test_parquet_reads_like_csv(tmp_path, block):
    data = prepare_custom(parquet(tmp_path, COLUMNS), tmp_path / "out", block=block)
    assert rows(data) == [("1", "i1", 4.0, 100), ("1", "i2", 5.0, 200), ("2", "i1", 1.0, 300)]


@pytest.mark.parametrize(
    ("unit", "zone"), [("s", None), ("ms", None), ("us", "UTC"), ("ns", "Europe/Berlin"), ("ns", None)]
)
def test_timestamps_of_parquet_are_instants(tmp_path, unit, zone):
    moment = dt.datetime(2001, 1, 1, 12, 30, 5, tzinfo=dt.UTC if zone else None)
    columns = {**COLUMNS, "time": [moment, moment + dt.timedelta(seconds=1), moment]}
    data = prepare_custom(parquet(tmp_path, columns, time=pa.timestamp(unit, zone)), tmp_path / "out")
    assert [r[3] for r in rows(data)] == [978352205, 978352206, 978352205]


@pytest.mark.parametrize(("kind", "unit"), [(pa.timestamp, "s"), (pa.timestamp, "us"), (pa.date32, None)])
def test_times_of_parquet_far_in_the_future_are_not_taken_for_milliseconds(tmp_path, kind, unit):
    """The number of seconds since 1970 reaches 1e11, from where on numbers are milliseconds, in November 5138."""
    before, after, last = dt.datetime(5138, 1, 1), dt.datetime(5139, 1, 1), dt.datetime(9999, 12, 31)
    columns = {**COLUMNS, "time": [before, after, last]}
    path = parquet(tmp_path, columns, time=kind(unit) if unit else kind())
    data = prepare_custom(path, tmp_path / "out")
    epoch = dt.datetime(1970, 1, 1)
    assert [r[3] for r in rows(data)] == [(t - epoch).total_seconds() for t in (before, after, last)]


def test_dates_and_dictionaries_and_decimals(tmp_path):
    columns = {**COLUMNS, "time": [dt.date(1970, 1, 2)] * 3, "item": pa.array(["i1", "i2", "i1"]).dictionary_encode()}
    data = prepare_custom(parquet(tmp_path, columns), tmp_path / "out")
    assert rows(data)[0] == ("1", "i1", 4.0, 86400)


def test_missing_cells_of_parquet_are_empty(tmp_path):
    path = parquet(tmp_path, {**COLUMNS, "rating": [4.0, None, 1.0]})
    with pytest.raises(DataError, match="is empty") as caught:
        prepare_custom(path, tmp_path / "out")
    assert (caught.value.line, caught.value.field) == (2, "rating")


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("user", [1.0, 1.5, 2.0], "fractional numbers"),
        ("user", [b"a", b"b", b"c"], "its type binary cannot be read"),
        ("rating", [{"a": 1}] * 3, "its type struct"),
        ("rating", ["4", "x", "1"], "'x' is not a number"),
        ("time", ["then", "1", "2"], "'then' is not a time"),
    ],
)
def test_parquet_with_wrong_types(tmp_path, column, values, says):
    with pytest.raises(DataError, match=says) as caught:
        prepare_custom(parquet(tmp_path, {**COLUMNS, column: values}), tmp_path / "out")
    assert caught.value.field == column


def test_damaged_parquet_and_a_missing_column(tmp_path):
    path = parquet(tmp_path, COLUMNS)
    whole = (tmp_path / "raw" / "events.parquet").read_bytes()
    (tmp_path / "raw" / "events.parquet").write_bytes(whole[:-20])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        prepare_custom(path, tmp_path / "out")
    path = parquet(tmp_path / "b", {k: v for k, v in COLUMNS.items() if k != "time"})
    with pytest.raises(DataError, match="missing") as caught:
        prepare_custom(path, tmp_path / "out")
    assert caught.value.field == "time"


def test_a_parquet_table_without_rows(tmp_path):
    path = parquet(tmp_path, {k: pa.array([], pa.string()) for k in COLUMNS})
    with pytest.raises(DataError, match="no rows"):
        prepare_custom(path, tmp_path / "out")


def test_lists_in_parquet_are_multi_valued(tmp_path):
    schema = SCHEMA + '\n[[item_features]]\nname = "tags"\nkind = "multi"\nseparator = ", "\n'
    columns = {**COLUMNS, "tags": [["a", "b"], None, ["a", "b"]]}
    data = prepare_custom(parquet(tmp_path, columns, schema), tmp_path / "out")
    assert cells(data, "item", "tags") == [[], [], ["a", "b"], []]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.string())], ids=["list", "large_list"])
def test_a_null_in_a_list_of_parquet_drops_only_that_value(tmp_path, kind):
    schema = SCHEMA + '\n[[item_features]]\nname = "tags"\nkind = "multi"\n'
    columns = {
        "user": [1, 2, 3, 4, 5],
        "item": ["i1", "i2", "i3", "i4", "i5"],
        "rating": [1, 2, 3, 4, 5],
        "time": [1, 2, 3, 4, 5],
        "tags": [["a", None, "b"], [None], None, [], ["b", None]],
    }
    data = prepare_custom(parquet(tmp_path / "raw", columns, schema, tags=kind), tmp_path / "out")
    assert cells(data, "item", "tags") == [[], [], ["a", "b"], [], [], [], ["b"]]


def test_missing_numbers_in_a_list_of_parquet_are_left_out(tmp_path):
    schema = SCHEMA + '\n[[entity_features]]\nname = "sizes"\nkind = "multi"\n'
    sizes = [[1.5, None, float("nan"), 2.5]] * 3
    data = prepare_custom(parquet(tmp_path / "raw", {**COLUMNS, "sizes": sizes}, schema), tmp_path / "out")
    assert cells(data, "entity", "sizes") == [["1.5", "2.5"]] * 2


def test_a_value_of_a_list_in_parquet_stays_one_though_it_holds_the_separator(tmp_path):
    schema = SCHEMA + '\n[[item_features]]\nname = "tags"\nkind = "multi"\n'
    columns = {**COLUMNS, "tags": [["a|b", "c"], ["a|b"], ["a|b", "c"]]}
    data = prepare_custom(parquet(tmp_path / "raw", columns, schema), tmp_path / "out")
    assert sorted(data.vocab.values["item.tags"]) == ["a|b", "c"]
    assert cells(data, "item", "tags") == [[], [], ["a|b", "c"], ["a|b"]]


def test_events_in_many_files(tmp_path):
    path = write(tmp_path / "raw", HEAD + "u1,i1,4,100\n", name="part-1.csv")
    (tmp_path / "raw" / "part-2.csv").write_text("rating;item;time;user\n5;i2;200;u1\n")
    (tmp_path / "raw" / "part-3.csv").write_text(HEAD + "u2,i1,1,300\n")
    path.write_text(path.read_text().replace("part-1", "part-*"))
    data = prepare_custom(path, tmp_path / "out")
    assert bag(data) == bag(prepared(tmp_path / "one", GOOD))
    assert len(data.about["origin"]) == 3
    (tmp_path / "raw" / "part-3.csv").write_text(HEAD + "u2,i1,1,300\nu1,i1,4,100\n")
    with pytest.raises(DataError, match="repeats") as caught:
        prepare_custom(path, tmp_path / "out")
    assert "part-3.csv" in str(caught.value.file)
    assert caught.value.line == 3


@pytest.mark.parametrize(
    ("schema", "files", "says"),
    [
        (SCHEMA + "lable = 1\n", "", "lable"),
        (SCHEMA, "evnets = 'x'\n", "evnets"),
        (SCHEMA, 'duplicates = "maybe"\n', "duplicates"),
        (SCHEMA, 'encoding = "utf-16"\n', "utf-16"),
        (SCHEMA, 'encoding = "nonsense"\n', "nonsense"),
        (SCHEMA.replace("[1, 5]", "[5, 1]"), "", "low < high"),
        (SCHEMA + 'item = "user"\nentity = "user"\n', "", "different columns"),
        (SCHEMA + '[[item_features]]\nname = "a"\nkind = "colour"\n', "", "kind"),
        ("name = ", "", "not valid TOML"),
    ],
)
def test_wrong_schemas_say_what_is_wrong(tmp_path, schema, files, says):
    with pytest.raises(ConfigError, match=says) as caught:
        prepare_custom(write(tmp_path, GOOD, schema, files), tmp_path / "out")
    assert "Traceback" not in str(caught.value)


def test_a_schema_without_files_and_a_file_without_schema(tmp_path):
    (tmp_path / "s.toml").write_text(SCHEMA)
    with pytest.raises(ConfigError, match="events"):
        prepare_custom(tmp_path / "s.toml", tmp_path / "out")
    with pytest.raises(ConfigError, match="no such schema file"):
        prepare_custom(tmp_path / "t.toml", tmp_path / "out")
    (tmp_path / "e.csv").write_text(GOOD)
    with pytest.raises(DataError, match="neither a TOML schema nor"):
        prepare_custom(tmp_path / "e.csv", tmp_path / "out")


def test_objective_and_threshold_can_be_overridden(tmp_path):
    path = write(tmp_path, GOOD)
    data = prepare_custom(path, tmp_path / "out", objective="rating", positive=4)
    assert (data.schema.objective, data.schema.positive) == ("rating", 4)
    schema = SCHEMA.replace('label = "rating"', "").replace("label_range = [1, 5]", "")
    with pytest.raises(ConfigError, match="needs a label"):
        prepare_custom(write(tmp_path / "b", GOOD, schema), tmp_path / "out", objective="rating")


def test_without_label_and_time(tmp_path):
    data = prepared(tmp_path, "user,item\nu1,b\nu1,a\n", schema='name = "bare"\n')
    assert rows(data) == [("u1", "b", 1.0, None), ("u1", "a", 1.0, None)], "file order is kept"
    assert data.events.time is None
    assert data.schema.order == "random"


def test_frames_read_back_by_pandas_agree(tmp_path):
    data = prepared(tmp_path, GOOD)
    vocab = pd.read_parquet(tmp_path / "out" / "vocab.parquet")
    assert set(vocab.columns) == {"space", "id", "value"}
    items = vocab[vocab["space"] == "item"]
    assert list(items["id"]) == [2, 3]
    assert list(items["value"]) == list(data.vocab.values["item"])


def test_the_schema_of_a_folder_is_found_beside_recipes(tmp_path):
    path = write(tmp_path / "raw", GOOD)
    assert find_schema(path) == find_schema(path.parent) == path
    (path.parent / "recipe.toml").write_text('name = "mine"\nlearner = "maml"\n')
    (path.parent / "broken.toml").write_text("name = ")
    assert find_schema(path.parent) == path
    (path.parent / "second.toml").write_text(path.read_text())
    with pytest.raises(ConfigError, match=r"2 schemas .*schema\.toml, second\.toml.*give the file"):
        find_schema(path.parent)
    path.unlink()
    (path.parent / "second.toml").unlink()
    with pytest.raises(ConfigError, match=r"0 schemas .*broken\.toml, recipe\.toml"):
        find_schema(path.parent)


def test_what_is_no_schema_is_none(tmp_path):
    (tmp_path / "events.csv").write_text(GOOD)
    assert find_schema(tmp_path) is find_schema(tmp_path / "events.csv") is find_schema(tmp_path / "nowhere") is None
    (tmp_path / "atoms.inter").write_text("user_id:token\titem_id:token\nu\ti\n")
    assert find_schema(tmp_path) == tmp_path / "atoms.inter"
    (tmp_path / "only.toml").write_text("name = ")
    assert find_schema(tmp_path) == tmp_path / "only.toml", "so that its error names it"
