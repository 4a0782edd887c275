"""Filters against their definition, one item at a time."""

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys_meta.core.dataset import Vocabulary
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import FeatureField
from recsys_meta.inference.ranking.filters import FeatureFilter, filter_mask

FIELDS = (
    FeatureField(name="tags", kind="multi"),
    FeatureField(name="words", kind="text"),
    FeatureField(name="year", kind="numeric"),
)
WORDS = ("a", "b", "c")
VOCAB = Vocabulary(
    {"item.tags": pd.Index(WORDS, dtype="str"), "item.words": pd.Index(["blue", "red", "sea"], dtype="str")}
)
TAGS = [[], ["a"], ["a", "b"], ["c"], ["?"], ["b", "?"]]
YEARS = [1990.0, float("nan"), 2000.0, 1990.0, -5.0, 3000.0]


def features():
    code = {"a": 2, "b": 3, "c": 4, "?": 1}
    tags = [[code[t] for t in row] + [0] * (2 - len(row)) for row in TAGS]
    return {
        "tags": torch.tensor(tags),
        "words": torch.tensor([[0], [2], [3], [4], [2], [1]]),
        "year": torch.tensor(YEARS),
    }


SETS = st.lists(st.sampled_from([*WORDS, "?", "zebra"]), max_size=3).map(tuple)


@given(any_of=st.one_of(st.none(), SETS), all_of=SETS, none_of=SETS)
def test_values_equal_their_definition(any_of, all_of, none_of):
    kept = filter_mask({"tags": FeatureFilter(any_of, all_of, none_of)}, FIELDS, VOCAB, features()).tolist()
    for tags, got in zip(TAGS, kept, strict=True):
        known = set(tags) - {"?"}
        wanted = (any_of is None or bool(known & set(any_of))) and set(all_of) <= known and not known & set(none_of)
        assert got == wanted


@given(
    low=st.one_of(st.none(), st.sampled_from([-10.0, 1990, 1990.5])),
    high=st.one_of(st.none(), st.sampled_from([1990.0, 2000])),
)
def test_numbers_equal_their_definition(low, high):
    if low is None and high is None:
        return
    kept = filter_mask({"year": FeatureFilter(min=low, max=high)}, FIELDS, VOCAB, features()).tolist()
    assert kept == [(low is None or y >= low) and (high is None or y <= high) and y == y for y in YEARS]


def test_all_rules_must_hold_and_texts_have_no_capitals():
    rules = {"words": FeatureFilter(("BLUE",)), "tags": FeatureFilter(all=("a",))}
    assert filter_mask(rules, FIELDS, VOCAB, features()).nonzero().flatten().tolist() == [1]


def test_only_features_that_the_model_has_can_be_filtered():
    with pytest.raises(DataError, match=r"'words'.*Known: year"):
        filter_mask({"words": FeatureFilter(("red",))}, FIELDS, VOCAB, {"year": torch.zeros(3)})


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(FINITE)
def test_a_number_passes_bounds_of_the_same_number(sent):
    """Also one that a float32 cannot hold: it is kept as infinite, and so are its bounds."""
    stored = {"year": torch.tensor([sent], dtype=torch.float64).float()}
    for rule in (FeatureFilter(min=sent), FeatureFilter(max=sent), FeatureFilter(min=sent, max=sent)):
        assert filter_mask({"year": rule}, FIELDS, VOCAB, stored).tolist() == [True]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(allow_nan=False))
def test_bounds_are_rounded_and_keep_their_side(value, bound):
    """Against the order of numbers, wherever the bound differs from the value by more than rounding."""
    if abs(value - bound) <= 1e-6 * max(abs(value), abs(bound), 1e-30):
        return
    stored = {"year": torch.tensor([value, torch.nan])}
    assert filter_mask({"year": FeatureFilter(min=bound)}, FIELDS, VOCAB, stored).tolist() == [value >= bound, False]
    assert filter_mask({"year": FeatureFilter(max=bound)}, FIELDS, VOCAB, stored).tolist() == [value <= bound, False]


def test_bounds_beyond_the_range_of_the_values_let_all_pass_or_none():
    stored = {"year": torch.tensor([-3e38, 48.12, 3e38])}
    for rule, kept in (
        (FeatureFilter(min=-1e300), True),
        (FeatureFilter(max=1e300), True),
        (FeatureFilter(min=1e300), False),
        (FeatureFilter(max=-1e300), False),
    ):
        assert filter_mask({"year": rule}, FIELDS, VOCAB, stored).tolist() == [kept] * 3
    assert filter_mask({"year": FeatureFilter(min=48.12, max=48.12)}, FIELDS, VOCAB, stored).tolist() == [
        False,
        True,
        False,
    ]
