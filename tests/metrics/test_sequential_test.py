"""On simulated streams with known truth, looked at again and again: errors stay below what is promised."""

import numpy as np
import pytest

from recsys_meta.metrics.sequential_test import (
    MIN_ENTITIES,
    difference_of_rates,
    sequence_margin,
    sequential_p,
    sums_of,
)

STREAMS, ENTITIES, LOOKS = 300, 300, 25


def looks(rate: float, effect: float, seed: int):
    """Differences and variances [looks, streams] of two arms, and their true difference. Entities arrive one after
    another, each with a rate of its own, and have events for a while after."""
    rng = np.random.default_rng(seed)
    arms = [_arm(rng, rate, shift) for shift in (0.0, effect)]
    differences, variances = np.zeros((LOOKS, STREAMS)), np.full((LOOKS, STREAMS), np.nan)
    for look, now in enumerate(np.linspace(0.1, 1.2, LOOKS)):
        sums = [((hits & (time <= now)).sum(2), (time <= now).sum(2)) for hits, time, _ in arms]
        for stream in range(STREAMS):
            old, new = (sums_of(top[stream][n := bottom[stream] > 0], bottom[stream][n]) for top, bottom in sums)
            hits, lists = old.top + new.top, old.bottom + new.bottom
            if min(old.entities, new.entities) >= MIN_ENTITIES and hits >= 10 and lists - hits >= 10:
                differences[look, stream], variances[look, stream] = difference_of_rates(new, old)
    return differences, variances, arms[1][2] - arms[0][2]


def _arm(rng, rate, shift):
    """Hits and times [streams, entities, events] of an arm, infinite where there is no event, and its mean rate."""
    chance = np.clip(rng.beta(6 * rate, 6 * (1 - rate), (STREAMS, ENTITIES)) + shift, 0, 1)
    events = 1 + rng.poisson(3, (STREAMS, ENTITIES))
    hits = rng.random((STREAMS, ENTITIES, events.max())) < chance[:, :, None]
    time = np.sort(rng.random((STREAMS, ENTITIES)), 1)[:, :, None] + rng.exponential(0.05, hits.shape).cumsum(2)
    time[np.arange(hits.shape[2]) >= events[:, :, None]] = np.inf
    return hits, time, chance.mean()


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
    assert (sums_of(hits, lists).ratio, sums_of(hits, lists).variance) == (0.5, pytest.approx(0.25 / 3))
    assert np.isnan(sums_of(hits[:1], lists[:1]).variance)


def test_a_group_without_a_hit_is_not_sure_of_that():
    ones = np.ones(50)
    difference, variance = difference_of_rates(sums_of(0 * ones, ones), sums_of(np.arange(50) % 2 * 1.0, ones))
    assert (difference, variance) == (-0.5, pytest.approx(0.25 * 0.75 / 50 + 0.25 / 49, rel=1e-6))
