"""Episodes of meta-validation entities that constants are chosen on, in batches that fit in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, TaskBatch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.evaluation.evaluate_batch import is_row_metric

MAX_CELLS = 1_200_000
"""Most scores of one predictor that are held at once (tasks times items)."""
MAX_ROWS = 300
"""Most query rows of an entity, where metrics are of rows."""


def sample_entities(entities: IntArray, count: int, seed: int) -> IntArray:
    """Sample at most `count` entities, sorted; the same ones for a seed."""
    entities = np.asarray(entities, np.int64)
    if len(entities) <= count:
        return np.sort(entities)
    return np.sort(np.random.default_rng(seed).choice(entities, count, replace=False))


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
