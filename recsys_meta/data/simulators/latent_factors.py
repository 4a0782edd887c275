"""What a simulated world is made of, and its truth.

E entities have tastes, I items have latent traits; the utility of an item for an entity is their product, plus
the item's popularity, plus a trend that makes items come into fashion and go out of it. Entities choose without
replacement in proportion to exp(utility): Gumbel noise is added and the highest come first, so the earliest rows are
the most wanted (Plackett-Luce). Advertisements and cities differ: see `showings` and `walks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Schema
from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.data.readers.raw_tables import RawFeatureTable, RawTables, read_frame

START_TIME = 1_577_836_800
"""2020-01-01 UTC, when every simulated world begins."""

DURATION = 2 * 365 * 86_400
"""Two years in seconds."""

LATENT_DIMS = 8
"""Size of tastes and latent traits."""

MIN_ROWS = 10
"""Rows that every entity has."""

_MAX_UTILITIES = 2**22  # utilities worked on at a time
TextArray = npt.NDArray[np.str_]


@dataclass(frozen=True)
class GroundTruth:
    """How a world really is: taste [E, K], latent [I, K], popularity and trend [I], arrival [E] in 0 to 1."""

    entity_ids: TextArray
    item_ids: TextArray
    taste: FloatArray
    latent: FloatArray
    popularity: FloatArray
    trend: FloatArray
    arrival: FloatArray

    def utility(self, entities: IntArray) -> FloatArray:
        """Utilities [n, I] of all items for some entities when they arrive: the best possible ranking."""
        fashion = (2 * self.arrival[entities, None] - 1) * self.trend
        value: FloatArray = self.affinity(entities) + self.popularity + fashion
        return value

    def affinity(self, entities: IntArray) -> FloatArray:
        """The personal part [n, I]: taste times latent traits."""
        product: FloatArray = self.taste[entities] @ self.latent.T
        return product


Truth = TypeVar("Truth")


@dataclass(frozen=True)
class SimulatedDataset(Generic[Truth]):
    """A made world: tables to prepare, and the truth behind them."""

    tables: RawTables
    truth: Truth


def check_sizes(entities: int, items: int, events: int, least: int) -> None:
    """Raise ConfigError when a world cannot have these sizes."""
    if min(entities, items, events) < 1:
        raise ConfigError(f"sizes must be at least 1, got {entities} entities, {items} items, {events} events")
    if not entities * min(least, items) <= events <= entities * items:
        low, high = entities * min(least, items), entities * items
        raise ConfigError(f"{events:,} events do not fit this world: {low:,} to {high:,} do")


def numbered_names(prefix: str, count: int) -> TextArray:
    """'u0001' and so on: the order of the text is the order of the numbers."""
    width = len(str(count))
    return np.array([f"{prefix}{i:0{width}d}" for i in range(1, count + 1)])


def category_vectors(
    rng: np.random.Generator, parts: Sequence[tuple[IntArray, int]], dims: int, share: float
) -> FloatArray:
    """Vectors [n, K] of unit variance, of which categories (codes [n], how many there are) explain a `share`."""
    n = len(parts[0][0])
    known = np.sum([rng.normal(size=(count, dims))[codes] for codes, count in parts], axis=0) / np.sqrt(len(parts))
    vectors: FloatArray = np.sqrt(share) * known + np.sqrt(1 - share) * rng.normal(size=(n, dims))
    return vectors


def sample_activity(rng: np.random.Generator, entities: int, items: int, events: int, least: int) -> IntArray:
    """Rows of each entity [E]: skewed, at least `least`, mostly no more than half the items, `events` in all."""
    least = min(least, items)
    most = items if events > entities * (items // 2) else max(items // 2, least)
    counts = np.full(entities, least)
    weight = rng.lognormal(sigma=0.8, size=entities)
    while (rest := events - int(counts.sum())) > 0:
        open_ = counts < most
        share = np.where(open_, weight, 0)
        counts = np.minimum(counts + rng.multinomial(rest, share / share.sum()), most)
    return counts


def sample_choices(rng: np.random.Generator, truth: GroundTruth, counts: IntArray) -> tuple[IntArray, IntArray]:
    """Choices as (entity [N], item [N]) in order of choice."""
    step = max(1, _MAX_UTILITIES // len(truth.item_ids))
    entity, item = [], []
    for start in range(0, len(counts), step):
        rows = np.arange(start, min(start + step, len(counts)))
        value = truth.utility(rows)
        order = np.argsort(-(value + rng.gumbel(size=value.shape)), axis=1)
        taken = np.arange(order.shape[1]) < counts[rows, None]
        entity.append(np.repeat(rows, counts[rows]))
        item.append(order[taken])
    return np.concatenate(entity), np.concatenate(item)


def sample_times(rng: np.random.Generator, truth: GroundTruth, entity: IntArray) -> IntArray:
    """Times [N] of rows sorted by entity: it arrives, then acts every other hour or so, never twice at once."""
    gap = 1 + rng.exponential(2 * 3600, size=len(entity)).astype(np.int64)
    gone = np.cumsum(gap)
    first = np.searchsorted(entity, np.arange(len(truth.arrival)))
    since = gone - gone[first][entity]
    return START_TIME + (truth.arrival[entity] * DURATION).astype(np.int64) + since


def shuffle_rows(rng: np.random.Generator, frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in a random order, as a log of many entities has them."""
    return frame.iloc[rng.permutation(len(frame))].reset_index(drop=True)


def sample_subset(
    rng: np.random.Generator, words: Sequence[str], rows: int, most: int, separator: str
) -> tuple[TextArray, IntArray]:
    """One to `most` distinct words in each of the rows, joined, and the number [n] of the first of each."""
    order = np.argsort(rng.random((rows, len(words))), axis=1)[:, :most]
    many = rng.integers(1, most + 1, rows)
    table = np.array(words)[order]
    cells = table[:, 0].astype(object)
    for column in range(1, order.shape[1]):
        cells = np.where(many > column, cells + separator + table[:, column].astype(object), cells)
    return cells.astype(str), order[:, 0]


def raw_tables(
    schema: Schema,
    rng: np.random.Generator,
    log: dict[str, npt.NDArray[Any]],
    entities: dict[str, npt.NDArray[Any]],
    items: dict[str, npt.NDArray[Any]],
    title: str | None,
) -> RawTables:
    """A made log, in a random order, with the features of both sides."""
    name = schema.name
    return RawTables(
        schema=schema,
        events=read_frame(f"{name} events", shuffle_rows(rng, pd.DataFrame(log))),
        entities=RawFeatureTable(schema.entity, read_frame(f"{name} entities", pd.DataFrame(entities))),
        items=RawFeatureTable(schema.item, read_frame(f"{name} items", pd.DataFrame(items))),
        title=title,
        origin=(f"the simulator: {name}",),
    )
