"""Description of a prepared data set in numbers that can be printed or written as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from recsys_meta.core.arrays import FIRST, PAD, FloatArray, IntArray
from recsys_meta.core.dataset import NO_TIME, Dataset, Events, FeatureColumn
from recsys_meta.core.schema import FeatureField

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_MAX_LABEL_VALUES = 12


def describe(data: Dataset) -> dict[str, object]:
    """Describe a data set: counts, rows per entity and per item, labels, times, features and origin."""
    events = data.events
    entities, items = events.entity_count, data.catalogue - FIRST
    rows_of_item = np.bincount(np.asarray(events.item), minlength=data.catalogue)[FIRST:]
    return {
        "name": data.schema.name,
        "digest": data.digest,
        "schema": data.schema.model_dump(mode="json"),
        "entities": entities,
        "items": items,
        "events": len(events),
        "density": len(events) / max(entities * items, 1),
        "rows_of_an_entity": _quantiles(events.counts),
        "rows_of_an_item": _quantiles(rows_of_item),
        "labels": _labels(events.label) if data.schema.label else {},
        "time": _time(events),
        **_group_sizes("actor", events.actor),
        **_group_sizes("group", events.group),
        **_ownership(data),
        "context": [_context(f, data) for f in data.schema.context],
        "entity_features": [_feature(c, 0) for c in data.entities.values()],
        "item_features": [_feature(c, FIRST) for c in data.items.values()],
        "titles": len(titles) if isinstance(titles := data.about.get("titles"), Mapping) else 0,
        "about": {k: v for k, v in data.about.items() if k != "titles"},
    }


def _quantiles(counts: IntArray) -> dict[str, float]:
    names = ("least", "lower quartile", "median", "upper quartile", "most")
    return dict(zip(names, (float(q) for q in np.quantile(counts, _QUANTILES)), strict=True))


def _labels(label: FloatArray) -> dict[str, float]:
    """Count each distinct label; where they are more than _MAX_LABEL_VALUES, return mean, deviation and quantiles."""
    values, counts = np.unique(np.asarray(label), return_counts=True)
    if len(values) <= _MAX_LABEL_VALUES:
        return {f"{v:g}": int(n) for v, n in zip(values, counts, strict=True)}
    return {"mean": float(np.mean(label)), "deviation": float(np.std(label))} | _quantiles(
        np.asarray(label, np.float64)
    )


def _time(events: Events) -> dict[str, object]:
    if events.time is None:
        return {}
    time = np.asarray(events.time)
    valid = time[time != NO_TIME]
    span = {"unknown": len(time) - len(valid)}
    return span | ({"first": _iso(valid.min()), "last": _iso(valid.max())} if len(valid) else {})


def _group_sizes(name: str, numbers: IntArray | None) -> dict[str, object]:
    """Number of actors or groups (`name` says which), and quantiles of their rows."""
    if numbers is None:
        return {}
    rows = np.bincount(np.asarray(numbers))
    rows = rows[rows > 0]
    return {f"{name}s": len(rows), f"rows_of_{'an' if name == 'actor' else 'a'}_{name}": _quantiles(rows)}


def _ownership(data: Dataset) -> dict[str, object]:
    """Quantiles of the items that an entity owns, and the number of items without an owner; empty without a home."""
    if data.ownership is None:
        return {}
    without_owner = int((data.ownership.owner[FIRST:] < 0).sum())
    return {"items_of_an_entity": _quantiles(np.diff(data.ownership.indptr)), "items_of_nobody": without_owner}


def _context(field: FeatureField, data: Dataset) -> dict[str, object]:
    values = np.asarray(data.events.context[field.name])
    if field.kind == "numeric":
        return {"name": field.name, "kind": "numeric", "missing": float(np.isnan(values).mean())}
    distinct = data.vocab.size(f"context.{field.name}") - FIRST
    return {"name": field.name, "kind": "ids", "values": distinct, "missing": float((values == PAD).mean())}


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()


def _feature(column: FeatureColumn, reserved: int) -> dict[str, object]:
    """Describe one feature; the first `reserved` rows of the column belong to reserved ids."""
    rows = max(len(column) - reserved, 1)
    if column.indptr is None:
        return {
            "name": column.name,
            "kind": "numeric",
            "missing": float(np.isnan(column.values[reserved:]).sum()) / rows,
        }
    empty = int((np.diff(column.indptr)[reserved:] == 0).sum())
    values = {"values": column.size - FIRST, "a_row": len(column.values) / rows}
    return {"name": column.name, "kind": "ids", **values, "missing": empty / rows}
