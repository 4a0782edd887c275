"""Latent factor model of choice for simulated data sets, and samplers that all simulators share.

E entities have tastes, I items have latent factors. The utility of an item for an entity is their inner product, plus
the popularity of the item, plus a trend that changes the utility of an item with time. Entities choose items without
replacement in proportion to exp(utility) (Plackett-Luce): Gumbel noise is added and items are taken in descending
order, so the earliest rows have the highest utility. `ads` and `cities` have models of choice of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_meta.core.arrays import FloatArray, IntArray
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Schema
from recsys_meta.data.readers.raw_tables import RawFeatureTable, RawTables, read_frame

START_TIME = 1_577_836_800
"""First second of every simulated data set: 2020-01-01 UTC."""

DURATION = 2 * 365 * 86_400
"""Length of a simulated data set in seconds, two years."""

LATENT_DIMS = 8
"""K, the dimension of tastes and latent factors."""

MIN_ROWS = 10
"""Smallest number of rows of an entity."""

_MAX_UTILITIES = 2**22  # utilities that are computed at a time
TextArray = npt.NDArray[np.str_]


@dataclass(frozen=True)
class TastePrior:
    """Distribution of tastes given the features of their entities: Gaussian with mean [E, K] and the same standard
    deviation in all dimensions, independent of one another."""

    mean: FloatArray
    std: float


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth of a simulated data set: the world that its rows were drawn from.

    taste [E, K], latent [I, K], popularity and trend [I]; arrival [E]: the time at which an entity arrives, as a
    fraction of DURATION. `prior` is the distribution that the tastes were drawn from, `row_counts` [E] the number of
    rows of each entity, which depends neither on its taste nor on its features.
    """

    entity_ids: TextArray
    item_ids: TextArray
    taste: FloatArray
    latent: FloatArray
    popularity: FloatArray
    trend: FloatArray
    arrival: FloatArray
    prior: TastePrior
    row_counts: IntArray

    def utility(self, entities: IntArray) -> FloatArray:
        """Return the utilities [n, I] of all items for n entities at their arrival, which rank the items optimally."""
        trend = (2 * self.arrival[entities, None] - 1) * self.trend
        value: FloatArray = self.affinity(entities) + self.popularity + trend
        return value

    def affinity(self, entities: IntArray) -> FloatArray:
        """Return the personal part [n, I] of the utilities: inner products of tastes and latent factors."""
        product: FloatArray = self.taste[entities] @ self.latent.T
        return product


Truth = TypeVar("Truth")


@dataclass(frozen=True)
class SimulatedDataset(Generic[Truth]):
    """Simulated data set: raw tables for the preparation, and their ground truth."""

    tables: RawTables
    truth: Truth


def check_sizes(entities: int, items: int, events: int, least: int) -> None:
    """Raise ConfigError if a data set cannot have these sizes.

    `least` is the number of rows that each entity must have at least (or all items, if they are fewer).
    """
    if min(entities, items, events) < 1:
        raise ConfigError(f"sizes must be at least 1, got {entities} entities, {items} items, {events} events")
    if not entities * min(least, items) <= events <= entities * items:
        low, high = entities * min(least, items), entities * items
        raise ConfigError(f"{events:,} events do not fit this simulation: {low:,} to {high:,} do")


def numbered_names(prefix: str, count: int) -> TextArray:
    """Return the names "u0001", "u0002" ... whose order as text is that of their numbers."""
    width = len(str(count))
    return np.array([f"{prefix}{i:0{width}d}" for i in range(1, count + 1)])


def category_vectors(
    rng: np.random.Generator, parts: Sequence[tuple[IntArray, int]], dims: int, share: float
) -> FloatArray:
    """Sample vectors [n, K] of unit variance, of which categories explain a `share` of the variance.

    `parts` are the categorical features, each as the codes [n] and the number of its categories.
    """
    return sample_tastes(rng, parts, dims, share, 1.0)[0]


def sample_tastes(
    rng: np.random.Generator, parts: Sequence[tuple[IntArray, int]], dims: int, share: float, scale: float
) -> tuple[FloatArray, TastePrior]:
    """Sample vectors [n, K] as `category_vectors` does, times `scale`; return their distribution given the categories
    as well."""
    n = len(parts[0][0])
    category_part = np.sum([rng.normal(size=(count, dims))[codes] for codes, count in parts], axis=0) / np.sqrt(
        len(parts)
    )
    mean: FloatArray = np.sqrt(share) * category_part
    vectors: FloatArray = scale * (mean + np.sqrt(1 - share) * rng.normal(size=(n, dims)))
    return vectors, TastePrior(scale * mean, scale * float(np.sqrt(1 - share)))


def sample_activity(rng: np.random.Generator, entities: int, items: int, events: int, least: int) -> IntArray:
    """Sample the number of rows of each entity [E], log-normally skewed, with the sum `events`.

    Each is at least `least`, and at most half the number of items where that leaves enough rows (else all items).
    """
    least = min(least, items)
    most = items if events > entities * (items // 2) else max(items // 2, least)
    counts = np.full(entities, least)
    weight = rng.lognormal(sigma=0.8, size=entities)
    while (rest := events - int(counts.sum())) > 0:
        share = np.where(counts < most, weight, 0)
        counts = np.minimum(counts + rng.multinomial(rest, share / share.sum()), most)
    return counts


def sample_choices(rng: np.random.Generator, truth: GroundTruth) -> tuple[IntArray, IntArray]:
    """Sample the choices of all entities; return entity [N] and item [N], in order of choice."""
    counts = truth.row_counts
    step = max(1, _MAX_UTILITIES // len(truth.item_ids))
    entity, item = [], []
    for start in range(0, len(counts), step):
        rows = np.arange(start, min(start + step, len(counts)))
        value = truth.utility(rows)
        order = np.argsort(-(value + rng.gumbel(size=value.shape)), axis=1)
        is_chosen = np.arange(order.shape[1]) < counts[rows, None]
        entity.append(np.repeat(rows, counts[rows]))
        item.append(order[is_chosen])
    return np.concatenate(entity), np.concatenate(item)


def sample_times(rng: np.random.Generator, truth: GroundTruth, entity: IntArray) -> IntArray:
    """Sample times [N] of rows that are sorted by entity: the first at its arrival, the others about two hours apart,
    all distinct."""
    interval = 1 + rng.exponential(2 * 3600, size=len(entity)).astype(np.int64)
    time_sum = np.cumsum(interval)
    first = np.searchsorted(entity, np.arange(len(truth.arrival)))
    since_arrival = time_sum - time_sum[first][entity]
    return START_TIME + (truth.arrival[entity] * DURATION).astype(np.int64) + since_arrival


def shuffle_rows(rng: np.random.Generator, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in a random order, so that a preparation has to sort them."""
    return frame.iloc[rng.permutation(len(frame))].reset_index(drop=True)


def sample_subset(
    rng: np.random.Generator, words: Sequence[str], rows: int, most: int, separator: str
) -> tuple[TextArray, IntArray]:
    """Sample one to `most` distinct words for each of n rows; return them joined [n], and the number [n] of the first
    word of each."""
    order = np.argsort(rng.random((rows, len(words))), axis=1)[:, :most]
    count = rng.integers(1, most + 1, rows)
    table = np.array(words)[order]
    cells = table[:, 0].astype(object)
    for column in range(1, order.shape[1]):
        cells = np.where(count > column, cells + separator + table[:, column].astype(object), cells)
    return cells.astype(str), order[:, 0]


def raw_tables(
    schema: Schema,
    rng: np.random.Generator,
    log: dict[str, npt.NDArray[Any]],
    entities: dict[str, npt.NDArray[Any]],
    items: dict[str, npt.NDArray[Any]],
    title: str | None,
) -> RawTables:
    """Build raw tables from columns of the events, which are shuffled, and of the two feature tables."""
    name = schema.name
    return RawTables(
        schema=schema,
        ordinal_time=True,
        events=read_frame(f"{name} events", shuffle_rows(rng, pd.DataFrame(log))),
        entities=RawFeatureTable(schema.entity, read_frame(f"{name} entities", pd.DataFrame(entities))),
        items=RawFeatureTable(schema.item, read_frame(f"{name} items", pd.DataFrame(items))),
        title=title,
        origin=(f"the simulator: {name}",),
    )
