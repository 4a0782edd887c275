import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys_meta.core.dataset import FeatureColumn, Vocabulary
from recsys_meta.core.errors import DataError
from recsys_meta.core.feature_encoding import build_vocabulary, encode_column, explode_values, list_cell
from recsys_meta.core.feature_tensors import encode_raw, lookup_rows, unseen_features
from recsys_meta.core.schema import FeatureField

KINDS = ("categorical", "multi", "text")
CELLS = st.lists(st.one_of(st.none(), st.text("ab|, Éß7_\t", max_size=8), st.text(max_size=5)), max_size=8)


def field(kind="categorical", **more):
    return FeatureField(name="f", kind=kind, **more)


def naive(f, cell):
    text = "" if cell is None else cell
    if f.kind == "text":
        words, word = [], ""
        for c in text.lower() + " ":
            if c == "_" or c.isalnum():
                word += c
            elif word:
                words.append(word)
                word = ""
        parts = words
    else:
        parts = [p.strip() for p in (text.split(f.separator) if f.kind == "multi" else [text])]
    seen = []
    for p in parts:
        if p and p not in seen:
            seen.append(p)
    return seen[: f.max_values]


@pytest.mark.parametrize("kind", ["categorical", "multi"])
@given(cells=CELLS, most=st.integers(1, 3))
def test_tokens_equal_a_loop(kind, cells, most):
    f = field(kind, max_values=most)
    values, rows = explode_values(f, pd.Series(cells, dtype="object"))
    assert list(zip(rows.tolist(), values, strict=True)) == [(i, v) for i, c in enumerate(cells) for v in naive(f, c)]


@pytest.mark.parametrize(
    ("text", "words"),
    [("The  Matrix, the END", ["the", "matrix", "end"]), ("L'été 2021!", ["l", "été", "2021"]), ("..", [])],
)
def test_text_is_split_into_lower_case_words(text, words):
    assert explode_values(field("text"), pd.Series([text]))[0].tolist() == words == naive(field("text"), text)


@pytest.mark.parametrize("kind", KINDS)
@given(cells=CELLS)
def test_a_newcomer_is_read_as_the_preparation_reads(kind, cells):
    """One cell at serving time gives the ids that the same cell gives in a prepared table."""
    f = field(kind)
    series = pd.Series(cells, dtype="object")
    vocabulary = build_vocabulary(f, series.iloc[::2])  # half of the cells, so that some values are unknown
    column = encode_column(f, series, vocabulary)
    for row, cell in enumerate(cells):
        wanted = lookup_rows({"f": column}, np.array([row]))["f"]
        got = encode_raw((f,), Vocabulary({"entity.f": vocabulary}), "entity", [{"f": cell}])["f"]
        assert torch.equal(wanted, got) and got.dtype == torch.int64


@given(
    st.lists(st.one_of(st.none(), st.floats(width=32, allow_infinity=False), st.integers(-(10**6), 10**6)), max_size=6)
)
def test_numbers_are_read_alike_and_as_text(cells):
    f = field("numeric")
    column = encode_column(f, pd.Series(cells, dtype="object"), pd.Index([]))
    raw = encode_raw((f,), Vocabulary(), "entity", [{"f": c} for c in cells])["f"]
    text = encode_raw((f,), Vocabulary(), "entity", [{"f": None if c is None else repr(c)} for c in cells])["f"]
    np.testing.assert_array_equal(column.values, raw.numpy())
    np.testing.assert_array_equal(raw.numpy(), text.numpy())
    assert raw.dtype == torch.float32


@pytest.mark.parametrize("cell", [math.inf, -math.inf, "inf", "1e39", 1e39, 10**400, "tall", {"a": 1}, [1, 2], "1|2"])
def test_what_is_no_finite_number_is_refused(cell):
    f = FeatureField(name="f", kind="numeric", column="height")
    with pytest.raises(DataError, match=r"height.*not a finite number"):
        encode_raw((f,), Vocabulary(), "entity", [{"f": 1}, {"f": cell}])
    if isinstance(cell, str | float):
        with pytest.raises(DataError, match=r"height.*not a finite number"):
            encode_column(f, pd.Series([1, cell], dtype="object"), pd.Index([]))


@pytest.mark.parametrize("cell", [None, "", "  ", "nan", "NA", "null", math.nan])
def test_a_missing_number_is_missing(cell):
    assert encode_raw((field("numeric"),), Vocabulary(), "entity", [{"f": cell}])["f"].isnan().all()
    assert np.isnan(encode_column(field("numeric"), pd.Series([cell], dtype="object"), pd.Index([])).values).all()


def test_rare_values_become_unknown_and_ids_do_not_depend_on_row_order():
    cells = pd.Series(["b", "a", "b", "c", "a", "b"])
    vocabulary = build_vocabulary(field(min_count=2), cells)
    assert vocabulary.tolist() == ["a", "b"] == build_vocabulary(field(min_count=2), cells[::-1]).tolist()
    assert encode_column(field(min_count=2), cells, vocabulary).values.tolist() == [3, 2, 3, 1, 2, 3]


@given(st.lists(st.lists(st.integers(2, 9), max_size=4), min_size=1, max_size=6), st.data())
def test_gather_equals_a_loop(cells, data):
    indptr = np.concatenate([[0], np.cumsum([len(c) for c in cells])])
    column = FeatureColumn("f", np.array([v for c in cells for v in c], np.int32), indptr, 10)
    rows = data.draw(st.lists(st.integers(0, len(cells) - 1), max_size=5))
    got = lookup_rows({"f": column}, np.array(rows, np.int64))["f"]
    width = max([1, *(len(cells[r]) for r in rows)])
    assert got.tolist() == [cells[r] + [0] * (width - len(cells[r])) for r in rows]


def test_lists_are_several_values_and_missing_fields_are_empty():
    f, g = FeatureField(name="f", kind="multi"), FeatureField(name="g", kind="text")
    vocab = Vocabulary({"entity.f": pd.Index(["x", "y"], dtype="str"), "entity.g": pd.Index(["red"], dtype="str")})
    made = encode_raw((f, g), vocab, "entity", [{"f": ["y", "x"], "g": ["Red", "blue"]}, {}])
    assert made["f"].tolist() == [[3, 2], [0, 0]] and made["g"].tolist() == [[2, 1], [0, 0]]


@pytest.mark.parametrize("separator", ["|", ", "])
def test_a_value_of_a_list_stays_one_though_it_holds_the_separator(separator):
    f = field("multi", separator=separator)
    whole = f"y{separator}z"
    vocab = Vocabulary({"entity.f": pd.Index(["x", "y", whole, "z"], dtype="str")})

    def ids(cell):
        return encode_raw((f,), vocab, "entity", [{"f": cell}])["f"].tolist()[0]

    assert ids(["x", whole]) == ids(("x", whole)) == ids(np.array(["x", whole], object)) == [2, 4]
    assert ids([whole]) == [4] and ids(whole) == [3, 5], "a text is split"
    assert unseen_features([f], vocab, "entity", {"f": [whole]}) == []
    assert unseen_features([f], vocab, "entity", {"f": [f"x{separator}y"]}) == ["f"], "not two values that are known"
    assert ids([]) == ids([None]) == ids(["", None]) == [0] and ids([None, "x", math.nan]) == [2]
    column = encode_column(f, pd.Series([list_cell(["x", whole]), list_cell([whole]), whole]), vocab.values["entity.f"])
    assert (column.values.tolist(), column.indptr.tolist()) == ([2, 4, 4, 3, 5], [0, 2, 3, 5])


def test_a_feature_the_schema_lacks_is_named_with_those_it_has():
    with pytest.raises(DataError, match=r"field 'height'.*Known features: f"):
        encode_raw((field(),), Vocabulary({"entity.f": pd.Index([], dtype="str")}), "entity", [{"height": 3}])


def test_no_newcomer_is_an_empty_batch():
    vocab = Vocabulary({"entity.f": pd.Index([], dtype="str")})
    assert encode_raw((field(),), vocab, "entity", [])["f"].shape == (0, 1)
    assert encode_raw((field("numeric"),), vocab, "entity", [])["f"].shape == (0,)


def test_features_of_which_a_value_was_never_met_are_named():
    fields = [FeatureField(name=kind, kind=kind) for kind in (*KINDS, "numeric")]
    vocab = Vocabulary({f"entity.{kind}": pd.Index(["a", "b"]) for kind in KINDS})

    def strange(**given):
        return unseen_features(fields, vocab, "entity", given)

    assert strange(categorical="a", multi="a|b", text="a z", numeric=3) == []
    assert strange(categorical="z", multi="a|z", text="z", numeric=3) == ["categorical", "multi"]
    assert strange(multi=["a", "z"]) == ["multi"] and strange(multi=["b", "a"], categorical=None) == []
    assert strange() == []
