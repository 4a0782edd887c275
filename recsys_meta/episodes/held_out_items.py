"""Data sets without some of their items: what a model knew that was trained before these items came."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from recsys_meta.core.dataset import Dataset, Events, FeatureColumn, Vocabulary
from recsys_meta.core.types import FIRST, FloatArray, IntArray


def without_items(data: Dataset, items: IntArray) -> Dataset:
    """Leave out some items (padded ids [N]): their events, their features and their names. Other items keep their order
    and get the ids of a smaller catalogue; entities stay, also those without any event left."""
    kept = np.ones(data.catalogue, bool)
    kept[items] = False
    kept[:FIRST] = True
    new_id = np.cumsum(kept) - 1
    rows = kept[np.asarray(data.events.item)]
    names = data.vocab.values["item"][kept[FIRST:]]
    return replace(
        data,
        events=_select_rows(data.events, rows, new_id),
        items={name: _select_column(column, np.flatnonzero(kept)) for name, column in data.items.items()},
        vocab=Vocabulary({**data.vocab.values, "item": names}),
        digest=f"{data.digest}-{len(items)}-items",
    )


def _select_rows(events: Events, rows: IntArray, new_id: IntArray) -> Events:
    count = np.concatenate([[0], np.cumsum(rows)])
    return Events(
        count[np.asarray(events.indptr)],
        new_id[np.asarray(events.item)[rows]].astype(np.int32),
        np.asarray(events.label)[rows],
        None if events.time is None else np.asarray(events.time)[rows],
        {name: _rows(values, rows) for name, values in events.context.items()},
        None if events.actor is None else np.asarray(events.actor)[rows],
        None if events.group is None else np.asarray(events.group)[rows],
    )


def _select_column(column: FeatureColumn, rows: IntArray) -> FeatureColumn:
    if column.indptr is None:
        return replace(column, values=_rows(column.values, rows))
    start, count = np.asarray(column.indptr[:-1])[rows], np.diff(column.indptr)[rows]
    indptr = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    position = np.repeat(start - indptr[:-1], count) + np.arange(indptr[-1])
    return replace(column, values=_rows(column.values, position), indptr=indptr)


def _rows(values: IntArray | FloatArray, rows: IntArray) -> IntArray | FloatArray:
    selected: Any = np.asarray(values)[rows]
    return selected  # type: ignore[no-any-return]
