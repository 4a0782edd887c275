"""Simulated advertisements that are shown in lists to users, with known click probabilities.

A list is shown to one user at one time and holds eight ads in random order. An ad runs in consecutive lists, so that
ads of the same period appear together. The probability of a click depends on the ad, the user, the position in the
list (by the same effect for all ads) and the hour; not on the other ads, so a list may have no click or several.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_meta.core.arrays import FloatArray, IntArray
from recsys_meta.data.simulators.latent_factors import (
    DURATION,
    LATENT_DIMS,
    MIN_ROWS,
    START_TIME,
    GroundTruth,
    SimulatedDataset,
    category_vectors,
    check_sizes,
    numbered_names,
    raw_tables,
    sample_activity,
    sample_subset,
    sample_tastes,
)
from recsys_meta.data.simulators.schemas import AD_CATEGORIES, AD_WORDS, ADS, USER_ATTRIBUTES

LIST_SIZE = 8
"""Number of ads in a list."""

_LIST_JITTER = 0.05  # largest shift of a list in time, as a share of all lists; it mixes ads of neighbouring periods


@dataclass(frozen=True)
class ClickTruth(GroundTruth):
    """Ground truth of the clicks: the effects position [LIST_SIZE] and hour [24] are added to the utility of a row."""

    position: FloatArray
    hour: FloatArray

    def click_probability(self, entity: IntArray, item: IntArray, position: IntArray, hour: IntArray) -> FloatArray:
        """Return the true click probabilities [N] of rows; positions count from 1, hours from 0."""
        trend = (2 * self.arrival[entity] - 1) * self.trend[item]
        utility = (self.taste[entity] * self.latent[item]).sum(1) + self.popularity[item] + trend
        return _sigmoid(utility + self.position[position - 1] + self.hour[hour])

    def context_effects(self) -> dict[str, dict[str, float]]:
        """Return the effects of the context: field -> value as the data set writes it -> term of the utility."""
        return {
            "position": {str(i): float(v) for i, v in enumerate(self.position, 1)},
            "hour": {str(i): float(v) for i, v in enumerate(self.hour)},
        }

    def probability(self, entities: IntArray) -> FloatArray:
        """Return the click probabilities [n, I] of n ads for all users, the mean over all positions and hours."""
        utility = self.utility(entities)
        effects = (self.position[:, None] + self.hour).reshape(-1)
        total = np.zeros(utility.shape)
        for effect in effects:  # one by one: all 192 contexts at once could exceed the memory
            total += _sigmoid(utility + effect)
        return total / len(effects)


def _sigmoid(logit: FloatArray) -> FloatArray:
    probability: FloatArray = 1 / (1 + np.exp(-logit))
    return probability


def simulate_ads(
    ads: int = 400, users: int = 1200, events: int = 60_000, seed: int = 0, share: float = 0.5, drift: float = 0.3
) -> SimulatedDataset[ClickTruth]:
    """Simulate ads in lists; the label is 0 or 1, and about one row in six is a click.

    `ads`, `users` and `events` are the sizes. `share` is the part of the variance of ads that their features explain,
    `drift` the strength of trends. Raises ConfigError for sizes that do not fit together.
    """
    check_sizes(ads, users, events, MIN_ROWS)
    rng = np.random.default_rng(seed)
    category, brand = rng.integers(0, len(AD_CATEGORIES), ads), rng.integers(0, 40, ads)
    attributes = {name: rng.integers(0, len(values), users) for name, values in USER_ATTRIBUTES}
    interests, interest = sample_subset(rng, AD_CATEGORIES, users, 3, "|")
    words, word = sample_subset(rng, AD_WORDS, ads, 4, " ")
    ad_parts = [(category, len(AD_CATEGORIES)), (brand, 40), (word, len(AD_WORDS))]
    user_parts = [(attributes[n], len(v)) for n, v in USER_ATTRIBUTES] + [(interest, len(AD_CATEGORIES))]
    rows = _sample_lists(rng, ads, events)
    lists = int(rows.group.max()) + 1
    time = _sample_list_times(rng, lists)[rows.group]
    first_time = np.full(ads, START_TIME + DURATION)
    np.minimum.at(first_time, rows.entity, time)
    tastes, prior = sample_tastes(rng, ad_parts, LATENT_DIMS, share, 0.8)
    truth = ClickTruth(
        entity_ids=numbered_names("a", ads),
        item_ids=numbered_names("u", users),
        taste=tastes,
        latent=0.8 * category_vectors(rng, user_parts, LATENT_DIMS, 0.6),
        popularity=-2.5 + 0.5 * rng.normal(size=users),  # how often a user clicks on any ad
        trend=drift * rng.normal(size=users),
        arrival=(first_time - START_TIME) / DURATION,
        prior=prior,
        row_counts=np.bincount(rows.entity, minlength=ads),
        position=0.9 - 0.8 * np.log(np.arange(1, LIST_SIZE + 1)),
        hour=0.4 * np.cos(2 * np.pi * (np.arange(24) - 20) / 24),  # highest at 20 o'clock
    )
    activity = rng.lognormal(sigma=0.7, size=users)
    item = rng.choice(users, lists, p=activity / activity.sum())[rows.group]
    hour = time // 3600 % 24
    click = rng.random(events) < truth.click_probability(rows.entity, item, rows.position, hour)
    log = {
        "ad": truth.entity_ids[rows.entity],
        "user": truth.item_ids[item],
        "list": rows.group,
        "position": rows.position,
        "hour": hour,
        "click": click.astype(np.int64),
        "time": time,
    }
    ad_table = {
        "ad": truth.entity_ids,
        "category": np.array(AD_CATEGORIES)[category],
        "advertiser": numbered_names("brand", 40)[brand],
        "words": words,
        "price": np.round(rng.lognormal(3, 0.8, ads), 2),
    }
    user_attributes = {n: np.array(v)[attributes[n]] for n, v in USER_ATTRIBUTES}
    user_table = {"user": truth.item_ids} | user_attributes | {"interests": interests}
    return SimulatedDataset(raw_tables(ADS, rng, log, ad_table, user_table, None), truth)


@dataclass(frozen=True)
class _ImpressionRows:
    """N impressions sorted by ad: entity [N] (the ad), group [N] (the list, numbered in order of time) and position
    [N], from 1."""

    entity: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]


def _sample_lists(rng: np.random.Generator, ads: int, events: int) -> _ImpressionRows:
    """Assign ads to lists.

    Every ad takes consecutive lists, from where the ad before it ended, and continues with the first list after the
    last. So no list has an ad twice, and all lists are full but for a remainder.
    """
    size = min(LIST_SIZE, ads)
    lists = -(-events // size)
    counts = sample_activity(rng, ads, lists, events, MIN_ROWS)
    order = rng.permutation(ads)
    entity = np.repeat(order, counts[order])
    slot = np.arange(events) % lists
    time_rank = np.argsort(np.argsort(np.arange(lists) + rng.uniform(-_LIST_JITTER, _LIST_JITTER, lists) * lists))
    group = time_rank[slot]
    # A random position for each row among those of its list.
    by_list = np.lexsort((rng.random(events), group))
    size_of_list = np.bincount(group, minlength=lists)
    position = np.empty(events, np.int64)
    position[by_list] = np.arange(events) - (np.cumsum(size_of_list) - size_of_list)[group[by_list]] + 1
    return _ImpressionRows(entity, group, position)


def _sample_list_times(rng: np.random.Generator, lists: int) -> npt.NDArray[np.int64]:
    """Sample distinct times of the lists [lists], ascending, over the whole duration."""
    return START_TIME + np.sort(rng.integers(0, DURATION - lists, lists)) + np.arange(lists)
