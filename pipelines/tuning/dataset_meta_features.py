"""Meta-features of a data set: what tells whether settings that were good on one may be good on another."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pipelines.experiments.training_inputs import TrainingInputs
from recsys_meta.core.dataset import FeatureTable
from recsys_meta.core.types import FIRST, IntArray

TOP_ITEMS = 0.1
"""Part of the items whose share of the rows tells how concentrated rows are."""


def meta_features(inputs: TrainingInputs) -> dict[str, float]:
    """Meta-features of the rows of training entities; counts as natural logarithms, the rest as shares from 0 to 1.

    entities, items (met at all), rows, median rows of an entity, density, share of the rows on the most frequent tenth
    of the items, share of the entities' and of the items' features that are known, mean label, fields of context.
    """
    index, data = inputs.train_index.to("cpu"), inputs.data
    train = inputs.split.train
    counts = index.counts.numpy()[train]
    _, item, label = index.of_entities(train)
    frequency = np.bincount(item.numpy(), minlength=data.catalogue)
    frequency = np.sort(frequency[frequency > 0])[::-1]
    entities, items, rows = len(train), len(frequency), int(counts.sum())
    return {
        "entities": _log(entities),
        "items": _log(items),
        "rows": _log(rows),
        "rows_of_median_entity": _log(float(np.median(counts)) if entities else 0.0),
        "density": _log(1000.0 * rows / max(1, entities * items)),
        "concentration": float(frequency[: math.ceil(TOP_ITEMS * items)].sum() / max(1, rows)),
        "entity_features": _share_known(data.entities, train),
        "item_features": _share_known(data.items, np.arange(FIRST, data.catalogue)),
        "label": float(label.mean()) / max(1e-9, float(label.abs().max())) if rows else 0.0,
        "context": _log(len(data.schema.context)),
    }


def distance(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Distance of two data sets: root mean square of the differences of their meta-features."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return math.inf
    return math.sqrt(sum((first[k] - second[k]) ** 2 for k in shared) / len(shared))


def _log(count: float) -> float:
    return math.log1p(count)


def _share_known(table: FeatureTable, rows: IntArray) -> float:
    """Share of the cells of a feature table that hold a value, in some rows; 0 without features."""
    if not table or not len(rows):
        return 0.0
    known = [np.isfinite(c.values) if c.indptr is None else np.diff(c.indptr) > 0 for c in table.values()]
    return float(np.mean([np.mean(k[rows]) for k in known]))
