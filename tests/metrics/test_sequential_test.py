"""On simulated streams with known truth, looked at again and again: errors stay below what is promised."""

import numpy as np
import pytest

from recsys_meta.metrics.sequential_test import MIN_ENTITIES, ratio_of_sums, sequence_margin, sequential_p

STREAMS, ENTITIES, LOOKS = 300, 300, 25


def looks(rate: float, effect: float, seed: int):
    """Rates, variances [looks, streams] of two arms, and their true difference. Entities arrive one after another, each
    with a rate of its own, and have events for a while after; sums over entities are all that is kept."""
    rng = np.random.default_rng(seed)
    arms = []
    for shift in (0.0, effect):
        chance = np.clip(rng.beta(6 * rate, 6 * (1 - rate), (STREAMS, ENTITIES)) + shift, 0, 1)
        events = 1 + rng.poisson(3, (STREAMS, ENTITIES))
        hits = rng.random((STREAMS, ENTITIES, events.max())) < chance[:, :, None]
        time = np.sort(rng.random((STREAMS, ENTITIES)), 1)[:, :, None]
        time = time + rng.exponential(0.05, hits.shape).cumsum(2)
        time[np.arange(hits.shape[2]) >= events[:, :, None]] = np.inf
        rates, variances = [], []
        for now in np.linspace(0.1, 1.2, LOOKS):
            tops, bottoms = (hits & (time <= now)).sum(2), (time <= now).sum(2)
            pairs = [ratio_of_sums(t[b > 0], b[b > 0]) for t, b in zip(tops, bottoms, strict=True)]
            enough = ((bottoms > 0).sum(1) >= MIN_ENTITIES) & (tops.sum(1) >= 5)
            rates.append([pair[0] for pair in pairs])
            variances.append([pair[1] if is_enough else np.nan for pair, is_enough in zip(pairs, enough, strict=True)])
        arms.append((np.array(rates), np.array(variances), chance.mean()))
    (old, old_variance, _), (new, new_variance, _) = arms
    return new - old, old_variance + new_variance, arms[1][2] - arms[0][2]


def margins(variance):
    known = np.isfinite(variance)
    return np.where(known, np.vectorize(sequence_margin)(np.where(known, variance, 1.0)), np.inf)


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_arms_that_are_alike_alarm_in_five_of_a_hundred_streams_at_most(rate):
    difference, variance, _ = looks(rate, 0.0, seed=0)
    alarms = (np.abs(difference) > margins(variance)).any(0)
    assert alarms.mean() <= 0.05
    once = (np.abs(difference) > 1.96 * np.sqrt(variance)).any(0)
    assert once.mean() > 0.1, "or looking again and again would do no harm anyway"


def test_the_better_arm_is_found_and_the_interval_holds_at_every_look():
    difference, variance, truth = looks(0.2, 0.15, seed=1)
    margin = margins(variance)
    assert (np.abs(difference - truth) <= margin).all(0).mean() >= 0.95
    assert (difference > margin).any(0).mean() > 0.95
    assert not (difference < -margin).any()
    last = np.abs(difference[-1] - truth) <= 1.96 * np.sqrt(variance[-1])
    assert 0.9 < last.mean() < 0.99, "an interval for one look covers as often as it says"


def test_the_p_value_is_below_a_level_where_the_interval_leaves_zero_out():
    for variance in (1e-4, 1e-3):
        for comparisons in (1, 3):
            margin = sequence_margin(variance, comparisons)
            assert sequential_p(margin, variance, comparisons) == pytest.approx(0.05)
    assert sequential_p(0.0, 1e-3) == 1.0
    assert sequential_p(5.0, 1e-6) == 0.0


def test_variances_are_of_entities_not_of_events():
    hits, lists = np.array([9.0, 0.0, 9.0, 0.0]), np.array([9.0, 9.0, 9.0, 9.0])
    assert ratio_of_sums(hits, lists) == (0.5, pytest.approx(0.25 / 3))
    assert np.isnan(ratio_of_sums(hits[:1], lists[:1])[1])
