"""Features of (candidate, moment) on worlds small enough to count by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from recsys_meta.core.types import Interactions, Support
from recsys_meta.models.functional.choice_features import (
    BASIC,
    CANDIDATE_FEATURES,
    EARTH_RADIUS,
    ROW_FEATURES,
    basic_features,
    candidate_features,
    evenly_spaced_items,
    row_features,
    sequential_features,
    support_statistics,
    support_summary,
)
from tests.fixtures.choice_datasets import place_support, rows_of

LAT, LON = (40.0, 40.0, 40.0, 40.2), (-80.0, -79.99, -79.95, -80.0)
EVERY = torch.arange(2, 6).view(1, 1, 4)
KM = EARTH_RADIUS * math.radians(1)


def support(lat=LAT, lon=LON):
    """Items 2 to 5: one actor went 2, 3, 2; another 4 and then 2."""
    return place_support(rows_of([2, 3, 2, 4, 2], [[], [2], [3, 2], [], [4]], [2, 3, 2, 3, 3]), lat, lon)


def asked(history, hour=2, item=2):
    return rows_of([item], [history], [hour])


def named(x, name):
    return x[0, 0, :, CANDIDATE_FEATURES.index(name)].tolist()


def told(history, own=None):
    x = candidate_features(support_summary(own or support()), asked(history), EVERY)
    assert x.shape == (1, 1, 4, len(CANDIDATE_FEATURES))
    assert torch.isfinite(x).all()
    return x


def test_counts_and_finders():
    x = told([])
    assert named(x, "log_count") == pytest.approx([math.log(4), math.log(2), math.log(2), 0])
    assert named(x, "uncounted") == [0, 0, 0, 1]
    # Item 2 was taken three times, once by one who had met it.
    assert named(x, "log_finders") == pytest.approx([math.log(3), math.log(2), math.log(2), 0])
    assert named(x, "unfound") == [0, 0, 0, 1]


def test_distances_are_in_km():
    x = told([2, 4])
    east = KM * math.cos(math.radians(40))
    apart = [0, 0.01 * east, 0.05 * east, 0.2 * KM]
    assert named(x, "near_last") == pytest.approx([-math.log(a + 0.05) for a in apart], abs=1e-3)
    least = [0, 0.01 * east, 0, 0.2 * KM]
    assert named(x, "near_history") == pytest.approx([-math.log(a + 0.05) for a in least], abs=1e-3)


def test_own_history():
    x = told([3, 2, 3])
    assert named(x, "log_own_visits") == pytest.approx([math.log(2), math.log(3), 0, 0])
    assert named(x, "is_last") == [0, 1, 0, 0]
    assert named(x, "is_visited") == [1, 1, 0, 0]
    assert named(x, "recency") == pytest.approx([0.5, 1, 0, 0])


def test_echoes_of_the_support():
    state = support_summary(support())
    rows = asked([2], hour=3)
    steps, together, now = sequential_features(state, rows, EVERY, ["log_steps", "log_together", "log_at_this_time"])
    assert steps[0, 0].tolist() == pytest.approx([0, math.log(2), 0, 0])
    # Those who had met item 2 took 3, and 2 again having met two items.
    assert together[0, 0].tolist() == pytest.approx([math.log1p(0.5**0.5), math.log(2), 0, 0])
    assert now[0, 0].tolist() == pytest.approx([math.log(2), math.log(2), math.log(2), 0])


def test_what_is_nearby_leaves_the_item_out():
    state = support_summary(support())
    alone = state["near"][0, 5, 0], state["dense"][0, 5, 0]
    assert float(alone[0]) == pytest.approx(0, abs=1e-5)
    assert float(alone[1]) == pytest.approx(0, abs=1e-5)
    east = 0.01 * KM * math.cos(math.radians(40))
    further = 0.04 * KM * math.cos(math.radians(40))
    # Around item 3, one km wide: item 2 was found twice, item 4 once.
    expected = 2 * math.exp(-east) + math.exp(-further)
    assert float(state["near"][0, 3, 1]) == pytest.approx(expected, rel=1e-2)
    assert float(state["dense"][0, 3, 1]) == pytest.approx(math.exp(-east) + math.exp(-further), rel=1e-2)


def test_a_row_of_the_support_is_left_out_of_what_it_is_told():
    own = support()
    state = support_summary(own)
    rows = replace(own.rows, history=state["history"])
    every = torch.arange(2, 6).expand(1, 5, 4)
    x = candidate_features(state, rows, every, leave_one_out=True)
    for r in range(5):
        others = [c for c in range(5) if c != r]
        rest = own.rows.map(lambda t, others=others: t[:, others])
        left = candidate_features(support_summary(replace(own, rows=rest)), rows.columns(r, r + 1), every[:, r : r + 1])
        torch.testing.assert_close(x[:, r], left[:, 0], atol=1e-4, rtol=1e-4)


def test_missing_places_say_nothing():
    x = told([2], support(lat=(math.nan, 40.0, 40.0, 40.2)))
    assert named(x, "unlocated") == [1, 0, 0, 0]
    assert len(set(named(x, "near_last"))) == 1, "no distance is known from an item without a place"
    bare = support()
    bare = replace(bare, catalogue=replace(bare.catalogue, features={}))
    assert named(told([2], bare), "unlocated") == [1, 1, 1, 1]


def test_no_history_is_neutral():
    x = told([])
    for name in ("near_last", "near_history", "log_own_visits", "recency", "log_steps", "log_together"):
        assert len(set(named(x, name))) == 1
    rows = asked([])
    none = replace(rows, history=None)
    torch.testing.assert_close(candidate_features(support_summary(support()), none, EVERY), x)


def test_empty_support():
    own = support()
    state = support_summary(own.empty())
    x = candidate_features(state, asked([2, 3]), EVERY)
    assert torch.isfinite(x).all()
    assert named(x, "log_count") == [0, 0, 0, 0]
    assert named(x, "is_visited") == [1, 1, 0, 0]


def test_pieces_of_rows_and_candidates_are_alike():
    own = support()
    state = support_summary(own)
    rows = rows_of([2, 3, 4], [[3], [2, 4, 5], []], [2, 3, 2])
    every = torch.arange(0, 6).expand(1, 3, 6)
    whole = candidate_features(state, rows, every)
    for r in range(3):
        torch.testing.assert_close(
            candidate_features(state, rows.columns(r, r + 1), every[:, r : r + 1]), whole[:, r : r + 1]
        )
    torch.testing.assert_close(candidate_features(state, rows, every[..., 3:]), whole[..., 3:, :])
    torch.testing.assert_close(
        basic_features(support_statistics(own), rows, every)[:, :, 2:], whole[:, :, 2:, : len(BASIC)]
    )
    assert (whole[:, :, :2] == 0).all(), "reserved ids have no features"


def test_padding_of_support_and_catalogue_changes_nothing():
    own = support()
    rows, there = own.rows, own.catalogue
    garbage = Interactions(
        *(torch.cat([t, torch.full((1, 2), 3).to(t.dtype)], 1) for t in (rows.item, rows.label)),
        torch.cat([rows.mask, torch.zeros(1, 2, dtype=torch.bool)], 1),
        {k: torch.cat([v, torch.full((1, 2), 2)], 1) for k, v in rows.context.items()},
        torch.cat([rows.history, torch.full((1, 2, 2), 4)], 1),
    )
    wide = replace(
        there,
        item=torch.cat([there.item, torch.zeros(1, 3, dtype=torch.int64)], 1),
        features={k: torch.cat([v, torch.full((1, 3), 40.0)], 1) for k, v in there.features.items()},
        mask=torch.cat([there.mask, torch.zeros(1, 3, dtype=torch.bool)], 1),
    )
    padded = Support({}, garbage, wide)
    query = asked([2, 4])
    torch.testing.assert_close(
        candidate_features(support_summary(padded), query, EVERY),
        candidate_features(support_summary(own), query, EVERY),
    )
    torch.testing.assert_close(row_features(support_summary(padded), query), row_features(support_summary(own), query))


def test_moment():
    x = row_features(support_summary(support()), asked([3, 3, 2]))[0, 0]
    values = dict(zip(ROW_FEATURES, x.tolist(), strict=True))
    assert values["history"] == pytest.approx(math.log(4))
    assert values["distinct"] == pytest.approx(2 / 3)
    assert values["stayed"] == 1
    assert values["log_size"] == pytest.approx(math.log(6))
    assert values["log_items"] == pytest.approx(math.log(5))


def test_spaced_items_do_not_repeat():
    listed = torch.zeros(2, 12, dtype=torch.bool)
    listed[0, 2:12] = True
    listed[1, 2:5] = True
    items, kept = evenly_spaced_items(listed, 5)
    assert items[0].tolist() == [2, 4, 6, 8, 10]
    assert sorted(items[1][kept[1]].tolist()) == [2, 3, 4]
    assert kept[0].all()


def test_a_support_without_a_catalogue_is_refused():
    with pytest.raises(ValueError, match="catalogue"):
        support_statistics(replace(support(), catalogue=None))
