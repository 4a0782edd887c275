"""Groups of newcomers by a feature or by a meta-feature of their support, in which results are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_meta.core.types import FIRST, FloatArray, IntArray
from recsys_meta.evaluation.newcomers import Newcomers
from recsys_meta.metrics.bootstrap import Values
from recsys_meta.metrics.pooled_metrics import RowSample

BoolArray = npt.NDArray[np.bool_]

LEAST_NEWCOMERS = 20
"""Newcomers of a group, those of every seed counted: of fewer nothing could be told apart."""
MOST_VALUES = 6
"""Most values of a feature that are groups, the most frequent ones."""
SUPPORT_SIZE, SUPPORT_POPULARITY, FEATURES_KNOWN = "support size", "support popularity", "features known"
"""Segments by meta-features. A feature of the data set has no blank in its name."""
THIRDS = ("low", "middle", "high")


@dataclass(frozen=True)
class NewcomerGroup:
    """Newcomers of each seed, as masks [n], whose `segment` is in `part`; the ends of a part that is a range."""

    segment: str
    part: str
    masks: Mapping[int, BoolArray]
    low: float | None = None
    high: float | None = None

    def restrict(self, seed: int, entities: IntArray, values: Values) -> Values:
        """Values of the group alone: those of other entities [n] become NaN, their rows are left out."""
        mask = self.masks[seed]
        if not isinstance(values, RowSample):
            return np.where(mask, values, np.nan)
        keep = np.isin(values.entity, entities[mask])
        return RowSample(values.entity[keep], values.value[keep], None if values.label is None else values.label[keep])


def newcomer_groups(newcomers: Mapping[int, Newcomers], shots: int) -> Iterator[NewcomerGroup]:
    """Yield the groups of the newcomers of each seed that a point of the curve measures.

    A categorical or multi-valued feature has a group for each of its most frequent values; a number is cut into thirds
    of the newcomers of all seeds. A segment in which all newcomers are alike, and a group of fewer than
    `LEAST_NEWCOMERS`, are left out.
    """
    measured = {seed: one.support[shots].size >= 0 for seed, one in newcomers.items()}
    schema = next(iter(newcomers.values())).data.schema if newcomers else None
    for field in schema.entity_features if schema is not None else ():
        columns = {seed: one.features[field.name] for seed, one in newcomers.items()}
        if field.kind == "numeric":
            yield from _thirds(field.name, {s: v.astype(np.float64) for s, v in columns.items()}, measured)
        elif field.kind != "text":
            yield from _by_value(field.name, newcomers, measured)
    support = {seed: one.support[shots] for seed, one in newcomers.items()}
    yield from _thirds(SUPPORT_SIZE, {seed: one.size.astype(np.float64) for seed, one in support.items()}, measured)
    yield from _thirds(SUPPORT_POPULARITY, {seed: one.popularity for seed, one in support.items()}, measured)
    known = {seed: one.features_known.astype(np.float64) for seed, one in newcomers.items()}
    yield from _thirds(FEATURES_KNOWN, known, measured)


def _by_value(
    name: str, newcomers: Mapping[int, Newcomers], measured: Mapping[int, BoolArray]
) -> Iterator[NewcomerGroup]:
    ids = {seed: one.features[name] for seed, one in newcomers.items()}
    vocab = next(iter(newcomers.values())).data.vocab
    size = vocab.size(f"entity.{name}")
    count = np.zeros(size, np.int64)
    for seed, table in ids.items():
        # A value counts once for a newcomer, however often the cell holds it.
        pairs = np.unique(np.stack([np.repeat(np.arange(len(table)), table.shape[1]), table.ravel()]), axis=1)
        count += np.bincount(pairs[1][measured[seed][pairs[0]]], minlength=size)
    count[:FIRST] = 0
    total = sum(int(mask.sum()) for mask in measured.values())
    frequent = np.argsort(-count, kind="stable")[:MOST_VALUES]
    for value in frequent[(count[frequent] >= LEAST_NEWCOMERS) & (count[frequent] < total)]:
        masks = {seed: (table == value).any(1) & measured[seed] for seed, table in ids.items()}
        yield NewcomerGroup(name, vocab.value(f"entity.{name}", int(value)), masks)


def _thirds(name: str, columns: Mapping[int, FloatArray], measured: Mapping[int, BoolArray]) -> Iterator[NewcomerGroup]:
    known = {seed: measured[seed] & np.isfinite(column) for seed, column in columns.items()}
    pooled = np.concatenate([column[known[seed]] for seed, column in columns.items()] or [np.empty(0)])
    if len(pooled) == 0 or pooled.min() == pooled.max():
        return
    edges = np.quantile(pooled, [1 / 3, 2 / 3])
    for third, part in enumerate(THIRDS):
        # A value at an edge belongs below it, so that equal values are never torn apart.
        masks = {seed: known[seed] & (np.searchsorted(edges, column) == third) for seed, column in columns.items()}
        values = np.concatenate([column[masks[seed]] for seed, column in columns.items()])
        if len(values) >= LEAST_NEWCOMERS:
            yield NewcomerGroup(name, part, masks, float(values.min()), float(values.max()))
