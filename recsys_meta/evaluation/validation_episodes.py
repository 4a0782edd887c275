"""Episodes of meta-validation entities that constants are chosen on, in batches that fit in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Order
from recsys_meta.core.types import FIRST, IntArray, TaskBatch
from recsys_meta.episodes.event_index import EventIndex, order_rows
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.evaluation.evaluate_batch import is_row_metric

MAX_CELLS = 1_200_000
"""Most scores of one predictor that are held at once (tasks times items)."""
MAX_ROWS = 300
"""Most query rows of an entity, where metrics are of rows."""
ENOUGH_EPISODES, MOST_DRAWS = 600, 6
"""Episodes at which one more support of each entity is no longer drawn, and supports of an entity at most."""
DRAW_SEED = 7_919
"""Distance between the seeds of two draws."""
FULL_CATALOGUE = 40_000
"""Items up to which rankings are looked at for as many entities as are asked for. For twice as many items it is half as
many entities, so that a choice costs about the same: every ranking is of the whole catalogue."""
LEAST_ENTITIES = 64
"""Entities below which that does not go."""


def affordable(count: int, data: Dataset, least: int = LEAST_ENTITIES) -> int:
    """Reduce a number of entities, or of episodes, to what a ranking of the data's catalogue allows; see
    `FULL_CATALOGUE`. Other objectives score rows, and are not reduced."""
    items = data.catalogue - FIRST
    if data.schema.objective != "ranking" or items <= FULL_CATALOGUE:
        return count
    return max(min(count, least), round(count * FULL_CATALOGUE / items))


def sample_entities(entities: IntArray, count: int, seed: int) -> IntArray:
    """Sample at most `count` entities, sorted; the same ones for a seed."""
    entities = np.asarray(entities, np.int64)
    if len(entities) <= count:
        return np.sort(entities)
    return np.sort(np.random.default_rng(seed).choice(entities, count, replace=False))


def support_draws(
    index: EventIndex, order: Order, entities: int, seed: int, enough: int = ENOUGH_EPISODES
) -> list[EventIndex]:
    """Order the rows of an index in each way that supports are taken: one by time, several at random.

    A few dozen entities tell two settings apart no better than chance does. Where supports are random, each entity has
    several, so that there are about `enough` episodes in all; the first way is that of `order_rows`.
    """
    draws = 1 if order == "time" else min(max(round(enough / max(entities, 1)), 1), MOST_DRAWS)
    return [order_rows(index, order, seed + draw * DRAW_SEED) for draw in range(draws)]


def draw_episodes(
    data: Dataset, draws: Sequence[EventIndex], entities: IntArray, shots: Sequence[int], max_tasks: int
) -> dict[int, list[TaskBatch]]:
    """Build the batches of `episodes_by_shots` of every draw, one draw after the other.

    With an empty support all draws are alike, so that there is one.
    """
    episodes = episodes_by_shots(data, draws[0], entities, shots, max_tasks)
    for rows in draws[1:]:
        for k, batches in episodes_by_shots(data, rows, entities, [k for k in shots if k > 0], max_tasks).items():
            episodes.setdefault(k, []).extend(batches)
    return episodes


def episodes_by_shots(
    data: Dataset, rows: EventIndex, entities: IntArray, shots: Sequence[int], max_tasks: int
) -> dict[int, list[TaskBatch]]:
    """Build batches of at most `max_tasks` episodes for each number of shots; one that no entity reaches is left out.

    `rows` are in the order in which supports are taken.
    """
    size = min(max_tasks, max(16, MAX_CELLS // data.catalogue))
    max_rows = MAX_ROWS if is_row_metric(data) else None
    batches: dict[int, list[TaskBatch]] = {}
    for k in shots:
        enough = entities[rows.has_support(entities, k, data.schema.min_query, data.schema.query_from)]
        parts = [enough[i : i + size] for i in range(0, len(enough), size)]
        if parts:
            batches[k] = [episodes_at(data, rows, part, k, max_rows) for part in parts]
    return batches
