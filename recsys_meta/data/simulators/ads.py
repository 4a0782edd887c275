"""Simulated advertisements, shown in lists to users who click or do not, with a known truth.

A list is shown to one user at one moment and holds eight ads in random order. An ad runs for a while, in lists one
after the other, so that those of a moment compete. Whether it is clicked depends on what it is and on who sees it, on
its place in the list (the same for all ads) and on the hour; not on the other ads, so a list may have no click or two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_meta.core.types import FloatArray, IntArray
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
)
from recsys_meta.data.simulators.schemas import AD_CATEGORIES, AD_WORDS, ADS, USER_ATTRIBUTES

LIST_SIZE = 8
"""Ads in a list."""

_LIST_JITTER = 0.05  # by what share of all time lists are moved from their turn, which mixes the ads of a season


@dataclass(frozen=True)
class ClickTruth(GroundTruth):
    """The truth of a world of clicks: position [LIST] and hour [24] are added to the logit of a row."""

    position: FloatArray
    hour: FloatArray

    def click_probability(self, entity: IntArray, item: IntArray, position: IntArray, hour: IntArray) -> FloatArray:
        """Probability of a click of rows [N]: positions count from 1, hours from 0. Nothing predicts better."""
        fashion = (2 * self.arrival[entity] - 1) * self.trend[item]
        liking = (self.taste[entity] * self.latent[item]).sum(1) + self.popularity[item] + fashion
        return _sigmoid(liking + self.position[position - 1] + self.hour[hour])

    def probability(self, entities: IntArray) -> FloatArray:
        """Chance of a click [n, I] of any item, the mean over all positions and hours alike."""
        value = self.utility(entities)
        every = (self.position[:, None] + self.hour).reshape(-1)
        total = np.zeros(value.shape)
        for effect in every:  # 192 contexts; all at once would not fit
            total += _sigmoid(value + effect)
        return total / len(every)


def _sigmoid(logit: FloatArray) -> FloatArray:
    chance: FloatArray = 1 / (1 + np.exp(-logit))
    return chance


def simulate_ads(
    ads: int = 400, users: int = 1200, events: int = 60_000, seed: int = 0, share: float = 0.5, drift: float = 0.3
) -> SimulatedDataset[ClickTruth]:
    """New ads in lists: the label is 0 or 1, about one row in six is a click.

    `share` of what an ad is like follows from its features, `drift` is the strength of fashion. Raises ConfigError
    for sizes that do not fit together.
    """
    check_sizes(ads, users, events, MIN_ROWS)
    rng = np.random.default_rng(seed)
    ware, brand = rng.integers(0, len(AD_CATEGORIES), ads), rng.integers(0, 40, ads)
    kinds = {name: rng.integers(0, len(words), users) for name, words in USER_ATTRIBUTES}
    interests, interest = sample_subset(rng, AD_CATEGORIES, users, 3, "|")
    words, word = sample_subset(rng, AD_WORDS, ads, 4, " ")
    coded = [(kinds[n], len(w)) for n, w in USER_ATTRIBUTES] + [(interest, len(AD_CATEGORIES))]
    shown = _sample_lists(rng, ads, events)
    time = _sample_list_times(rng, int(shown.group.max()) + 1)[shown.group]
    begins = np.full(ads, START_TIME + DURATION)
    np.minimum.at(begins, shown.entity, time)
    truth = ClickTruth(
        entity_ids=numbered_names("a", ads),
        item_ids=numbered_names("u", users),
        taste=0.8
        * category_vectors(rng, [(ware, len(AD_CATEGORIES)), (brand, 40), (word, len(AD_WORDS))], LATENT_DIMS, share),
        latent=0.8 * category_vectors(rng, coded, LATENT_DIMS, 0.6),
        popularity=-2.5 + 0.5 * rng.normal(size=users),  # how readily a user clicks at all
        trend=drift * rng.normal(size=users),
        arrival=(begins - START_TIME) / DURATION,
        position=0.9 - 0.8 * np.log(np.arange(1, LIST_SIZE + 1)),
        hour=0.4 * np.cos(2 * np.pi * (np.arange(24) - 20) / 24),  # best in the evening
    )
    often = rng.lognormal(sigma=0.7, size=users)
    item = rng.choice(users, int(shown.group.max()) + 1, p=often / often.sum())[shown.group]
    hour = time // 3600 % 24
    click = rng.random(events) < truth.click_probability(shown.entity, item, shown.position, hour)
    log = {
        "ad": truth.entity_ids[shown.entity],
        "user": truth.item_ids[item],
        "list": shown.group,
        "position": shown.position,
        "hour": hour,
        "click": click.astype(np.int64),
        "time": time,
    }
    price = np.round(rng.lognormal(3, 0.8, ads), 2)
    sides = {
        "ad": truth.entity_ids,
        "category": np.array(AD_CATEGORIES)[ware],
        "advertiser": numbered_names("brand", 40)[brand],
        "words": words,
        "price": price,
    }
    people = (
        {"user": truth.item_ids} | {n: np.array(w)[kinds[n]] for n, w in USER_ATTRIBUTES} | {"interests": interests}
    )
    return SimulatedDataset(raw_tables(ADS, rng, log, sides, people, None), truth)


@dataclass(frozen=True)
class _ImpressionRows:
    """Rows [N] in order of ad: which ad, in which list (lists are numbered in order of time), at which position."""

    entity: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]


def _sample_lists(rng: np.random.Generator, ads: int, events: int) -> _ImpressionRows:
    """Ads dealt into lists: every ad takes lists one after the other, where the ad before it ended, and begins again
    at the first list after the last. So no list has an ad twice, and all are full (but for a remainder)."""
    size = min(LIST_SIZE, ads)
    lists = -(-events // size)
    counts = sample_activity(rng, ads, lists, events, MIN_ROWS)
    order = rng.permutation(ads)
    entity = np.repeat(order, counts[order])
    turn = np.arange(events) % lists
    when = np.argsort(np.argsort(np.arange(lists) + rng.uniform(-_LIST_JITTER, _LIST_JITTER, lists) * lists))
    group = when[turn]
    # A random place for each row among those of its list.
    within = np.lexsort((rng.random(events), group))
    held = np.bincount(group, minlength=lists)
    position = np.empty(events, np.int64)
    position[within] = np.arange(events) - (np.cumsum(held) - held)[group[within]] + 1
    return _ImpressionRows(entity, group, position)


def _sample_list_times(rng: np.random.Generator, lists: int) -> npt.NDArray[np.int64]:
    """Distinct times of the lists, ascending, over the whole span."""
    return START_TIME + np.sort(rng.integers(0, DURATION - lists, lists)) + np.arange(lists)
