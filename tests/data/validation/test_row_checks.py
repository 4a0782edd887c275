"""Bad rows: found, named with line, field and remedy, and left out only when asked for and never in silence."""

import csv

import pytest

from recsys_meta.core.errors import DataError
from recsys_meta.data import validate
from tests.data.source_files import GOOD, HEAD, SCHEMA, bag, cells, prepared, rows, write

BAD = [
    ("u3,i3,,400", "rating", "is empty"),
    ("u3,i3,nan,400", "rating", "is not a number"),
    ("u3,i3,abc,400", "rating", "'abc' is not a number"),
    ("u3,i3,inf,400", "rating", "is not a finite number"),
    ("u3,i3,-Infinity,400", "rating", "is not a finite number"),
    ("u3,i3,1e39,400", "rating", "is not a finite number"),
    ("u3,i3,5.01,400", "rating", "is outside 1 to 5"),
    ("u3,i3,0,400", "rating", "is outside 1 to 5"),
    ("u3,i3,3,", "time", "is empty"),
    ("u3,i3,3,soon", "time", "'soon' is not a time"),
    ("u3,i3,3,2020-13-01", "time", "is not a time"),
    ("u3,i3,3,inf", "time", "is not a time"),
    ("u3,i3,3,1e30", "time", "is not a time"),
    ("u3,i3,3,-5", "time", "before 1970"),
    ("u3,i3,3,1969-12-31", "time", "before 1970"),
    (",i3,3,400", "user", "is empty"),
    ("  ,i3,3,400", "user", "is empty"),
    ("u3,,3,400", "item", "is empty"),
    ("u1,i1,4,100", "item", "repeats an earlier row"),
    ("u1,i1,5,100", "item", "repeats an earlier row"),
]


@pytest.mark.parametrize(("row", "field", "says"), BAD, ids=[r for r, _, _ in BAD])
def test_a_bad_row_is_named_with_line_field_and_remedy(tmp_path, row, field, says):
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, GOOD + row + "\n")
    error = caught.value
    assert says in error.problem
    assert (error.line, error.field) == (5, field)
    assert "events.csv" in str(error.file)
    assert error.remedy
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("block", [1, 40, 2**20])
def test_skip_keeps_the_good_and_lists_the_bad(tmp_path, block):
    bad = [row for row, _, _ in BAD]
    text = HEAD + "".join(f"{b}\n{g}\n" for b, g in zip(bad[:3], GOOD.splitlines()[1:], strict=True))
    text += "\n".join(bad[3:]) + "\n"
    data = prepared(tmp_path, text, on_error="skip", block=block)
    assert bag(data) == bag(prepared(tmp_path / "good", GOOD))
    with (tmp_path / "out" / "rejects.csv").open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    assert data.about["rows_read"] == len(bad) + 3
    assert data.about["rows_rejected"] == {"events": len(bad)}
    assert len(listed) == len(bad)
    lines = text.splitlines()
    assert sorted(lines[int(r["line"]) - 1] for r in listed) == sorted(bad)
    assert all(r["reason"] and r["file"].endswith("events.csv") for r in listed)
    by_line = {lines[int(r["line"]) - 1]: r for r in listed}
    for row, field, says in BAD:
        assert by_line[row]["field"] == field
        assert says in by_line[row]["reason"]


def test_nothing_good_is_an_error_even_when_skipping(tmp_path):
    with pytest.raises(DataError, match=r"none of the 1 rows is good.*'x' is not a number"):
        prepared(tmp_path, HEAD + "u1,i1,x,100\n", on_error="skip")
    assert not (tmp_path / "out").exists()


def test_the_first_bad_line_is_reported_and_the_others_counted(tmp_path):
    with pytest.raises(DataError, match="and 1 more bad row") as caught:
        prepared(tmp_path, GOOD + "u3,i3,9,400\n,i3,3,400\n")
    assert caught.value.line == 5


def test_equal_rows_may_be_kept(tmp_path):
    text = GOOD + "u1,i1,4,100\n"
    data = prepared(tmp_path, text, files='duplicates = "keep"\n')
    assert bag(data)[("u1", "i1", 4.0, 100)] == 2


def test_rows_without_times_repeat_only_when_the_label_agrees(tmp_path):
    schema = SCHEMA.replace('time = "time"', "")
    text = "user,item,rating\nu1,i1,4\nu1,i1,5\n"
    assert len(prepared(tmp_path / "a", text, schema=schema).events) == 2
    with pytest.raises(DataError, match="repeats") as caught:
        prepared(tmp_path / "b", text + "u1,i1,4\n", schema=schema)
    assert caught.value.line == 4


def test_missing_times_are_allowed_where_times_are_rough_and_sort_last(tmp_path):
    data = prepared(
        tmp_path, HEAD + "u1,a,3,\nu1,b,3,200\nu1,c,3,\nu1,d,3,100\n", schema=SCHEMA + "exact_time = false\n"
    )
    assert [(r[1], r[3]) for r in rows(data)] == [("d", 100), ("b", 200), ("a", None), ("c", None)]
    assert data.about["unknown_times"] == 2
    assert data.schema.order == "random"


@pytest.mark.parametrize(
    "text",
    ["978300760", "978300760.75", "978300760000", "978300760000000", "978300760000000000", "2000-12-31T22:12:40Z",
     "2000-12-31 22:12:40", "2001-01-01T00:12:40+02:00", "2000-12-31T22:12:40.999Z", "9.7830076e8"],
)  # fmt: skip
def test_times_in_all_their_units(tmp_path, text):
    assert rows(prepared(tmp_path, HEAD + f"u,i,3,{text}\n"))[0][3] == 978300760


def test_times_of_one_file_may_differ_in_form(tmp_path):
    data = prepared(tmp_path, HEAD + "u,a,3,1970-01-02\nu,b,3,5\n")
    assert [r[3] for r in rows(data)] == [5, 86400]


def test_ids_stay_text(tmp_path):
    text = HEAD + "007,a b,3,1\n7,ﬁ 北京,3,2\n1e3,1.0,3,3\nNA,null,3,4\nTrue,nan,3,5\n"
    data = prepared(tmp_path, text)
    assert set(data.vocab.values["entity"]) == {"007", "7", "1e3", "NA", "True"}
    assert set(data.vocab.values["item"]) == {"a b", "ﬁ 北京", "1.0", "null", "nan"}


def test_ids_are_in_the_order_of_numbers(tmp_path):
    text = HEAD + "".join(f"{u},i,3,1\n" for u in ["10", "9", "b", "007", "7", "a", "100"])
    assert list(prepared(tmp_path, text).vocab.values["entity"]) == ["007", "7", "9", "10", "100", "a", "b"]


FEATURES = (
    SCHEMA
    + """
[[entity_features]]
name = "age"
kind = "numeric"
[[entity_features]]
name = "job"
[[item_features]]
name = "tags"
kind = "multi"
[[item_features]]
name = "words"
kind = "text"
column = "title"
"""
)
USERS = "user,age,job\nu1,31.5,clerk\nu2,,\n"
ITEMS = "item,tags,title\ni2,x|y|x,The one: the ONE!\ni1,,\ni9,z,nobody\n"


def test_features_of_both_sides(tmp_path):
    data = prepared(tmp_path, GOOD, schema=FEATURES, entities=USERS, items=ITEMS, files='title = "title"\n')
    age = data.entities["age"].values
    assert age[0] == 31.5
    assert age[1] != age[1]
    assert cells(data, "entity", "job") == [["clerk"], []]
    assert cells(data, "item", "tags") == [[], [], [], ["x", "y"]]
    assert cells(data, "item", "words") == [[], [], [], ["the", "one"]]
    assert list(data.vocab.values["item.tags"]) == ["x", "y"], "the catalogue is what occurs in events"
    assert data.about["titles"] == {"i2": "The one: the ONE!"}
    assert data.about["item_rows_unused"] == 1


def test_an_item_missing_from_its_table_has_empty_features(tmp_path):
    data = prepared(tmp_path, GOOD, schema=FEATURES, entities=USERS, items="item,tags,title\ni2,x,a\n")
    assert cells(data, "item", "tags") == [[], [], [], ["x"]]
    assert data.about["item_without_features"] == 1


@pytest.mark.parametrize(
    ("users", "line", "field", "says"),
    [
        (USERS + "u1,3,x\n", 4, "user", "'u1' is the id of an earlier row too"),
        (USERS + " u1 ,3,x\n", 4, "user", "earlier row"),
        (USERS + ",3,x\n", 4, "user", "is empty"),
        (USERS + "u3,old,x\n", 4, "age", "'old' is not a finite number"),
        (USERS + "u3,inf,x\n", 4, "age", "is not a finite number"),
        (USERS + "u3,1e40,x\n", 4, "age", "is not a finite number"),
        (USERS + "u3,3\n", 4, None, "has 2 fields where 3 are expected"),
    ],
)
def test_bad_rows_of_a_feature_table(tmp_path, users, line, field, says):
    with pytest.raises(DataError) as caught:
        prepared(tmp_path / "fail", GOOD, schema=FEATURES, entities=users, items=ITEMS)
    assert says in caught.value.problem
    assert (caught.value.line, caught.value.field) == (line, field)
    assert "entities.csv" in str(caught.value.file)
    data = prepared(tmp_path / "skip", GOOD, "skip", schema=FEATURES, entities=users, items=ITEMS)
    assert data.about["rows_rejected"] == {"entity": 1}
    assert data.entities["age"].values[0] == 31.5


def test_features_within_the_events(tmp_path):
    text = "user,item,rating,time,age,job,tags,title\nu1,i1,4,1,30,clerk,x,a\nu1,i2,4,2,30,clerk,y,b\nu2,i1,4,3,,,x,a\n"
    data = prepared(tmp_path / "a", text, schema=FEATURES, block=1)
    assert cells(data, "entity", "job") == [["clerk"], []]
    assert cells(data, "item", "tags") == [[], [], ["x"], ["y"]]
    with pytest.raises(DataError, match="other features in an earlier row") as caught:
        prepared(tmp_path / "b", text.replace("u1,i2,4,2,30,clerk", "u1,i2,4,2,30,baker"), schema=FEATURES)
    assert (caught.value.line, caught.value.field) == (3, "user")


def test_a_click_is_0_or_1(tmp_path):
    schema = 'name = "clicks"\nobjective = "click"\nkind = "ad"\nentity = "user"\nlabel = "rating"\ntime = "time"\n'
    with pytest.raises(DataError, match="neither 0 nor 1"):
        prepared(tmp_path, GOOD, schema=schema)


def test_validate_counts_everything_and_keeps_nothing(tmp_path):
    path = write(tmp_path / "raw", GOOD + "".join(f"{r}\n" for r, _, _ in BAD))
    before = sorted(p.name for p in tmp_path.rglob("*"))
    report = validate(path, examples=3)
    assert not report.ok
    assert report.rejected == {"events": len(BAD)}
    assert (report.events, report.entities, report.items) == (3, 2, 2)
    assert [e["line"] for e in report.examples] == [5, 6, 7]
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    assert validate(write(tmp_path / "good", GOOD)).ok
