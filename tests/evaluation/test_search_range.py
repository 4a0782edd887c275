"""Ranges of numeric fields: which ends are open, and what lies beyond them."""

import math

import numpy as np
import pytest

from recsys_meta.evaluation.search_range import FieldBounds, RangeEnd, open_ends, values_beyond, wider_settings
from recsys_meta.models.baselines import BASELINES
from recsys_meta.models.baselines.item_based.ease import Ease
from recsys_meta.models.baselines.item_based.gaussian import GaussianPosterior
from recsys_meta.models.baselines.item_based.itemknn import ItemKNN
from recsys_meta.models.baselines.item_based.naive_bayes import NaiveBayes
from recsys_meta.models.baselines.latent.ials import Ials, IalsPrior


def ends(settings, worth, best, shots=5, **options):
    return [str(end) for end in open_ends(settings, np.array(worth), best, shots, **options)]


def test_a_best_value_at_an_end_is_reported():
    grid = [NaiveBayes(trust=t) for t in (0.1, 0.2, 0.3)]
    assert ends(grid, [0.1, 0.2, 0.3], 2) == ["trust=0.3 (upper end)"]
    assert ends(grid, [0.3, 0.2, 0.1], 0) == ["trust=0.1 (lower end)"]
    assert ends(grid, [0.1, 0.3, 0.2], 1) == []
    assert ends(grid, [0.1, math.nan, 0.3], 2) == ["trust=0.3 (upper end)"]
    # Without a support it does not matter.
    assert ends(grid, [0.1, 0.2, 0.3], 2, shots=0) == []


def test_a_level_metric_is_no_end():
    grid = [NaiveBayes(trust=t) for t in (0.1, 0.2, 0.3)]
    assert ends(grid, [0.1, 0.3, 0.3005], 2) == []
    # Half a thousandth over two values is level as well; three thousandths are not.
    level, rising = [0.1, 0.3000, 0.3002, 0.3005], [0.1, 0.3, 0.3015, 0.303]
    grid = [NaiveBayes(trust=t) for t in (0.1, 0.2, 0.3, 0.4)]
    assert ends(grid, level, 3, steps=2, tolerance=0.001) == []
    assert ends(grid, rising, 3, steps=2, tolerance=0.001) == ["trust=0.4 (upper end)"]


def test_bounds_of_a_field_are_no_ends():
    assert ends([ItemKNN(shrink=s) for s in (0.0, 1.0, 2.0)], [3, 2, 1], 0) == []
    assert ends([ItemKNN(power=p) for p in (0.0, 0.5, 1.0)], [1, 2, 3], 2) == []
    assert ends([ItemKNN(power=p) for p in (0.0, 0.5, 0.9)], [1, 2, 3], 2) == ["power=0.9 (upper end)"]


def test_whole_numbers_and_truths_have_no_ends():
    assert ends([Ials(dims=d) for d in (1, 2, 3)], [1, 2, 3], 2) == []
    assert ends([GaussianPosterior(centred=c) for c in (True, False)], [1, 2], 1) == []


@pytest.mark.parametrize(
    ("grid", "bounds", "end", "is_upper", "beyond"),
    [
        ((1.0, 10.0, 100.0), (0, math.inf, True, True), 100.0, True, [1e3, 1e4]),
        ((1.0, 10.0, 100.0), (0, math.inf, True, True), 1.0, False, [0.1, 0.01]),
        # From where it was widened to, in the steps of the grid.
        ((1.0, 10.0, 100.0), (0, math.inf, True, True), 1e5, True, [1e6, 1e7]),
        ((0.0, 0.3, 1.2), (0, math.inf, False, True), 1.2, True, [4.8, 19.2]),
        ((0.0, 0.5), (0, math.inf, False, True), 0.5, True, [1.5, 4.5]),
        ((0.0, 0.25, 0.5, 0.75), (0, math.inf, False, True), 0.75, True, [1.0, 1.25]),
        # A closed bound is the last value, an open one is none.
        ((0.0, 0.25, 0.5, 0.75), (0, 1.0, False, False), 0.75, True, [1.0]),
        ((0.2, 0.4, 0.6, 0.8), (0, 1.0, False, False), 0.2, False, [0.0]),
        ((0.2, 0.4, 0.6, 0.8), (0, 1.0, True, True), 0.2, False, []),
        # Distances are those from the lower bound.
        ((1.1, 1.4), (1, math.inf, True, True), 1.4, True, [2.6, 7.4]),
        ((1.1, 1.4), (1, math.inf, True, True), 1.1, False, [1.025, 1.00625]),
        # Steps are at most tenfold.
        ((1.0, 500.0), (0, math.inf, True, True), 500.0, True, [5e3, 5e4]),
    ],
)
def test_values_beyond_an_end_go_on_as_the_grid_does(grid, bounds, end, is_upper, beyond):
    assert values_beyond(RangeEnd("x", end, is_upper), grid, FieldBounds(*bounds)) == pytest.approx(beyond, rel=5e-3)


def test_bounds_are_those_of_the_type():
    assert FieldBounds.of(ItemKNN(), "power") == (0, 1, False, False)
    assert FieldBounds.of(Ials(), "confidence") == (1, math.inf, True, True)


def test_one_field_at_a_time_moves_on_and_the_others_try_their_neighbours():
    grid = [IalsPrior(zeros=z, trust=t) for z in (0.01, 0.1, 1.0) for t in (0.1, 1.0)]
    worth = np.array([s.zeros + (s.trust == 1.0) for s in grid])
    best = int(worth.argmax())
    wider = wider_settings(grid, worth, best, 5)
    by_trust = {t: sorted(s.zeros for s in wider if s.trust == t and s.zeros > 1) for t in (0.1, 1.0)}
    # zeros moves on by five, the step between the last two values of the search space, with both values of trust.
    assert by_trust[0.1] == by_trust[1.0] == [5.0, 25.0]
    # trust is at its end as well: four times, with the best value of zeros and the one below.
    beyond = {(s.trust, s.zeros) for s in wider if s.trust > 1}
    assert {zeros for _, zeros in beyond} == {1.0, 0.1} and len({trust for trust, _ in beyond}) == 2
    assert len(wider) == len({s.model_dump_json() for s in wider}) == 8


def test_neighbours_need_no_fit_of_their_own():
    grid = [Ease(ridge=r, popularity=p) for r in (1.0, 10.0, 100.0) for p in (0.0, 1.0, 2.0)]
    worth = np.array([s.ridge * (s.popularity == 1) for s in grid])
    wider = wider_settings(grid, worth, int(worth.argmax()), 5)
    assert len({s.fit_key() for s in wider}) == 2
    assert {s.popularity for s in wider} == {0.0, 1.0, 2.0}
    grid = [Ease(ridge=r, popularity=p) for r in (1.0, 10.0, 100.0) for p in (1.0, 2.0)]
    worth = np.array([s.popularity * (s.ridge == 10) for s in grid])
    assert {s.fit_key() for s in wider_settings(grid, worth, int(worth.argmax()), 5)} == {Ease(ridge=10.0).fit_key()}


def test_a_best_setting_inside_asks_for_nothing():
    grid = [Ease(ridge=r) for r in (1.0, 10.0, 100.0)]
    assert wider_settings(grid, np.array([1.0, 2.0, 1.0]), 1, 5) == []


@pytest.mark.parametrize("name", BASELINES)
def test_every_grid_can_be_widened(name):
    kind = BASELINES[name]
    for objective in kind.objectives:
        grid = kind(objective=objective).grid()
        for field, values in grid[0].search_space().items():
            if type(values[0]) is not float:
                continue
            bounds = FieldBounds.of(grid[0], field)
            for is_upper in (False, True):
                end = max(values) if is_upper else min(values)
                beyond = values_beyond(RangeEnd(field, end, is_upper), values, bounds)
                assert all(v > end if is_upper else v < end for v in beyond)
                for value in beyond:
                    kind.model_validate(grid[0].model_dump() | {field: value})
                assert len(beyond) == 2 or end == bounds.lower or beyond[-1] in (bounds.lower, bounds.upper)
