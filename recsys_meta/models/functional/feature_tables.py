"""Feature tables made from a data set: the context of its events, and fields of few values."""

from __future__ import annotations

import numpy as np

from recsys_meta.core.dataset import Dataset, FeatureColumn, FeatureTable
from recsys_meta.core.types import FIRST


def context_table(data: Dataset) -> FeatureTable:
    """The context of all events as a table of features with one row for each event, fields by name."""
    table = {}
    for spec in sorted(data.schema.context, key=lambda f: f.name):
        values = data.events.context[spec.name]
        if spec.kind == "numeric":
            table[spec.name] = FeatureColumn(spec.name, values)
        else:
            size = data.vocab.size(f"context.{spec.name}")
            table[spec.name] = FeatureColumn(spec.name, values, np.arange(len(values) + 1), size)
    return table


def limit_cardinality(table: FeatureTable, most: int) -> FeatureTable:
    """The fields of at most `most` known values; numbers have none and always stay."""
    return {k: v for k, v in table.items() if v.size <= most + FIRST}
