"""Newcomers of an evaluation: who they are, and what is known of them at each number of shots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.feature_tensors import lookup_rows
from recsys_meta.core.schema import Order
from recsys_meta.core.types import FIRST, FloatArray, IntArray
from recsys_meta.episodes.event_index import EventIndex, order_rows


@dataclass(frozen=True)
class SupportMetaFeatures:
    """Meta-features of the supports of n newcomers at one number of shots.

    size [n]: rows of the support, -1 for a newcomer that the point leaves out. popularity [n]: mean over the support's
    items of the share of items that training entities met less often, between 0 and 1; NaN without a known item, or
    where entities have items of their own.
    """

    size: IntArray
    popularity: FloatArray


@dataclass(frozen=True)
class Newcomers:
    """Entities [n] of an evaluation, ascending, with their features and the meta-features of their supports by shots.

    `features` are those of the data set: name -> ids [n, L] or numbers [n].
    """

    data: Dataset
    entities: IntArray
    features: Mapping[str, IntArray | FloatArray]
    support: Mapping[int, SupportMetaFeatures]

    @property
    def features_known(self) -> IntArray:
        """Number of features of each newcomer that have a known value, [n] int64."""
        known = [_is_known(values) for values in self.features.values()]
        return np.sum(known, axis=0, dtype=np.int64) if known else np.zeros(len(self.entities), np.int64)

    def entity_id(self, position: int) -> str:
        """Return the id of a newcomer in the raw data."""
        return str(self.data.vocab.values["entity"][self.entities[position]])

    def feature_values(self, position: int) -> dict[str, Any]:
        """Return the known features of a newcomer: a number, a text, or a list of texts where a field holds several."""
        values: dict[str, Any] = {}
        for field in self.data.schema.entity_features:
            column = self.features[field.name][position]
            if field.kind == "numeric":
                values |= {field.name: float(column)} if np.isfinite(column) else {}
                continue
            texts = [self.data.vocab.value(f"entity.{field.name}", int(i)) for i in column if i >= FIRST]
            if texts:
                values[field.name] = texts[0] if field.kind == "categorical" else texts
        return values


def describe_newcomers(
    data: Dataset,
    index: EventIndex,
    entities: IntArray,
    popularity: FloatArray,
    *,
    shots: Sequence[int],
    order: Order | None = None,
    seed: int = 0,
    min_query: int | None = None,
) -> Newcomers:
    """Describe the entities of an evaluation, whose supports are those that `cold_start` draws with the same arguments.

    `popularity` [C] is that of the items; see `item_popularity`.
    """
    entities = np.sort(np.asarray(entities, np.int64))
    rows = order_rows(index, order or data.schema.order, seed)
    least = data.schema.min_query if min_query is None else min_query
    features = {name: values.numpy() for name, values in lookup_rows(data.entities, entities).items()}
    support = {k: _support_meta_features(data, rows, entities, k, least, popularity) for k in shots}
    return Newcomers(data, entities, features, support)


def item_popularity(data: Dataset, index: EventIndex, entities: IntArray) -> FloatArray:
    """Share of the items that some entities met less often than each item, ties counted half: [C], NaN for the reserved
    ids; NaN everywhere where every entity has items of its own."""
    popularity = np.full(data.catalogue, np.nan)
    if data.ownership is None and data.catalogue > FIRST:
        _, item, _ = index.of_entities(entities)
        count = np.bincount(item.cpu().numpy(), minlength=data.catalogue)[FIRST:]
        popularity[FIRST:] = (rankdata(count) - 0.5) / len(count)
    return popularity


def _support_meta_features(
    data: Dataset, index: EventIndex, entities: IntArray, shots: int, least: int, popularity: FloatArray
) -> SupportMetaFeatures:
    size, mean = np.full(len(entities), -1, np.int64), np.full(len(entities), np.nan)
    position = np.flatnonzero(index.has_support(entities, shots, least, data.schema.query_from))
    if len(position):
        tasks = torch.as_tensor(entities[position], device=index.indptr.device)
        support, _ = index.draw(tasks, torch.full_like(tasks, shots), max_query=1, query_from=data.schema.query_from)
        mask, item = support.mask.cpu().numpy(), support.item.cpu().numpy()
        size[position] = mask.sum(1)
        known = np.where(mask & (item >= FIRST), popularity[item], np.nan)
        count = (~np.isnan(known)).sum(1)
        mean[position] = np.divide(np.nansum(known, 1), count, out=np.full(len(count), np.nan), where=count > 0)
    return SupportMetaFeatures(size, mean)


def _is_known(values: IntArray | FloatArray) -> Any:
    """Mark the rows [n] of a feature that have a known value."""
    return np.isfinite(values) if values.ndim == 1 else (values >= FIRST).any(1)
