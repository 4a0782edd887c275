"""One rule for cells: a value means the same, whatever type it has and at whatever door it comes in."""

import datetime as dt
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_meta.core.cells import (
    category_cells,
    describe_mismatch,
    id_cells,
    list_cell,
    list_values,
    parse_labels,
    parse_numbers,
    text_cells,
    value_text,
)
from recsys_meta.core.dataset import Vocabulary
from recsys_meta.core.errors import DataError
from recsys_meta.core.feature_encoding import build_vocabulary
from recsys_meta.core.feature_tensors import encode_raw
from recsys_meta.core.json_text import dump_json
from recsys_meta.core.schema import FeatureField


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" a b ", "a b"),
        ("007", "007"),
        ("1.0", "1.0"),
        (True, "true"),
        (np.bool_(False), "false"),
        (7, "7"),
        (np.int8(7), "7"),
        (2**63, str(2**63)),
        (7.0, "7"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (np.float32(0.1), "0.1"),
        (np.float64(2.5), "2.5"),
        (Decimal("7.00"), "7"),
        (Decimal("0.10"), "0.1"),
        (dt.date(2026, 1, 31), "2026-01-31"),
        (None, ""),
        (float("nan"), ""),
        (pd.NA, ""),
        (pd.NaT, ""),
        (Decimal("nan"), ""),
    ],
)
def test_the_text_of_a_value(value, text):
    assert value_text(value) == text
    assert text_cells(pd.Series([value], dtype=object)).tolist() == [text]


@pytest.mark.parametrize(
    "cells",
    [
        pd.Series([7.0, None, 1.5]),
        pd.Series([7.0, None, 1.5], dtype="float32"),
        pd.Series([7, None, 1.5], dtype=object),
        pd.Series([7.0, None, 1.5], dtype=pd.ArrowDtype(pa.float64())),
        pd.Series(["7", "", "1.5"]),
        pd.Series(["7.0", "", "1.5"]),
        pd.Series([Decimal("7.0"), None, Decimal("1.50")], dtype=object),
    ],
)
def test_numbers_as_categories_have_one_text_whatever_their_type(cells):
    assert category_cells(cells).tolist() == ["7", "", "1.5"]
    field = FeatureField(name="f")
    vocab = Vocabulary({"entity.f": build_vocabulary(field, cells)})
    ids = encode_raw((field,), vocab, "entity", [{"f": v} for v in (7, 7.0, "7", None, 1.5, "1.5")])["f"]
    assert ids.tolist() == [[3], [3], [3], [0], [2], [2]]


@pytest.mark.parametrize(
    "cells",
    [
        pd.Series([True, False]),
        pd.Series([True, False], dtype="boolean"),
        pd.Series([True, False], dtype=object),
        pd.Series([True, False], dtype=pd.ArrowDtype(pa.bool_())),
        pd.Series(["True", "FALSE"]),
        pd.Series(["true", "false"]),
    ],
)
def test_booleans_are_one_category_and_one_number_whatever_their_spelling(cells):
    field, number = FeatureField(name="f"), FeatureField(name="n", kind="numeric")
    vocab = Vocabulary({"entity.f": build_vocabulary(field, cells)})
    assert vocab.values["entity.f"].tolist() == ["false", "true"]
    rows = [{"f": v, "n": v} for v in (True, "True", "true", False, "FALSE")]
    ids = encode_raw((field, number), vocab, "entity", rows)
    assert ids["f"].tolist() == [[3], [3], [3], [2], [2]] and ids["n"].tolist() == [1, 1, 1, 0, 0]
    assert parse_numbers(cells)[0].tolist() == parse_labels(cells, {})[0].tolist() == [1, 0]
    assert np.isnan(parse_numbers(cells.astype("str"), booleans=False)[0]).all(), "a time is no boolean"


def test_a_model_that_was_made_before_knows_its_own_spelling_of_booleans():
    field = FeatureField(name="f")
    numbers = Vocabulary({"entity.f": pd.Index(["7.0"], dtype="str")})
    assert encode_raw((field,), numbers, "entity", [{"f": 7}, {"f": "7.0"}, {"f": 8}])["f"].tolist() == [[2], [2], [1]]
    for old in (["0", "1"], ["False", "True"]):
        vocab = Vocabulary({"entity.f": pd.Index(old, dtype="str")})
        assert encode_raw((field,), vocab, "entity", [{"f": True}, {"f": False}])["f"].tolist() == [[3], [2]]


def test_ids_are_text_and_only_what_can_be_one_is_one():
    assert id_cells(pd.Series([" 007", "7", "1.0", "True", "nan", ""])).tolist() == [
        "007",
        "7",
        "1.0",
        "True",
        "nan",
        "",
    ]
    for cells in (
        pd.Series([1, 2]),
        pd.Series([1.0, 2.0]),
        pd.Series([1, 2.0], dtype=object),
        pd.Series([1, 2], dtype="UInt8"),
    ):
        assert id_cells(cells).tolist() == ["1", "2"]
    assert id_cells(pd.Series([1.0, None])).tolist() == ["1", ""]
    assert id_cells(pd.Series([2**53 + 1, 2])).tolist() == [str(2**53 + 1), "2"]
    wrong = [
        ([1.5], "fractional"),
        ([float(2**53)], "fractional"),
        ([True], "booleans"),
        ([pd.Timestamp("2026-01-31")], "times"),
    ]
    for values, says in wrong:
        for cells in (pd.Series(values), pd.Series(values, dtype=object)):
            with pytest.raises(ValueError, match=says):
                id_cells(cells)
    for value in (["a"], {"a": 1}, b"a"):
        with pytest.raises(ValueError, match="no ids"):
            id_cells(pd.Series([value], dtype=object))


@pytest.mark.parametrize(
    ("cell", "values"),
    [
        ("a|b", ["a", "b"]),
        ('["a|b", "c"]', ["a|b", "c"]),
        ("['a|b', \"it's\"]", ["a|b", "it's"]),
        ("[['Books'], ['Audio', None]]", ["Books", "Audio"]),
        ("[1, 2.0, true]", ["1", "2", "true"]),
        ("[]", []),
        ("[a]|[b]", ["[a]", "[b]"]),
        ("[remix", ["[remix"]),
        ("[x for x in y]", ["[x for x in y]"]),
        ("[{'id': 16}]", ["[{'id': 16}]"]),
        ("[" * 5000, ["[" * 5000]),
    ],
)
def test_lists_that_are_written_as_text(cell, values):
    assert [v for v in list_values(cell, "|") if v] == values


@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)), max_size=5))
def test_a_list_has_the_same_values_as_json_as_python_prints_it_and_as_it_is(values):
    def stripped(parts):
        return [s for p in parts if (s := p.strip())]

    expected = stripped(value_text(v) for v in values)
    assert stripped(list_values(list_cell(values), "|")) == expected
    assert stripped(list_values(json.dumps(values), "|")) == expected
    assert stripped(list_values(str(values), "|")) == expected


def test_words_are_labels():
    number, empty = parse_labels(pd.Series(["view", "cart ", "2.5", "", "buy"]), {"view": 1, "cart": 3})
    assert (
        number[:3].tolist() == [1, 3, 2.5]
        and np.isnan(number[3:]).all()
        and empty.tolist() == [False] * 3 + [True, False]
    )


def test_a_mismatch_shows_one_of_each_side():
    told = describe_mismatch("the ids of 'item' in the events", ["001", "002"], "in items.csv", ["1", "2"])
    assert (
        told.startswith("none of 2 of the ids of 'item' in the events is in items.csv")
        and "'001'" in told
        and "'1'" in told
    )
    many = [f"x{i}" for i in range(20)]
    assert describe_mismatch("ids", [*many, "1"], "there", ["1", "2"]).startswith("only 1 of 21")
    assert (
        describe_mismatch("ids", [*many[:9], "1"], "there", ["1"]) == "" == describe_mismatch("ids", [], "there", ["1"])
    )


@given(
    st.recursive(st.none() | st.floats() | st.text(max_size=3), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_what_says_it_is_json_is_json(value):
    def refuse(word):
        raise AssertionError(word)

    json.loads(dump_json({"value": value}), parse_constant=refuse)


def test_types_that_json_lacks():
    value = {
        "a": np.float32("nan"),
        "b": np.int64(3),
        "c": (np.inf, 1.5),
        "d": np.array([1.0, np.nan]),
        "e": dt.date(2026, 1, 1),
    }
    assert json.loads(dump_json(value)) == {"a": None, "b": 3, "c": [None, 1.5], "d": [1.0, None], "e": "2026-01-01"}
    with pytest.raises(TypeError, match="set cannot be written"):
        dump_json({1})


def test_a_number_that_is_none_is_named():
    with pytest.raises(DataError, match="'1,5' is not a finite number"):
        encode_raw((FeatureField(name="f", kind="numeric"),), Vocabulary(), "entity", [{"f": "1,5"}])
