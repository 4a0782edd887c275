"""Padded task batches: support and query rows joined with entity features and, where it exists, the entity catalog."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset, ItemOwnership
from recsys_meta.core.feature_encoding import lookup_rows
from recsys_meta.core.types import FIRST, PAD, UNKNOWN, EntityCatalog, IntArray, Interactions, Support, TaskBatch


def episode_batch(data: Dataset, entities: IntArray, support: Interactions, query: Interactions) -> TaskBatch:
    """Join rows with the features of their entities, and with their catalogues where every entity has its own."""
    device = support.item.device
    features = {k: v.to(device) for k, v in lookup_rows(data.entities, entities).items()}
    entity = torch.as_tensor(entities, device=device)
    homes = data.ownership
    if homes is None:
        return TaskBatch(entity, Support(features, support), query)
    own = entity_catalog_of(data, homes, np.asarray(entities)).to(device)
    support, query = (_localised(homes, entity, rows) for rows in (support, query))
    return TaskBatch(entity, Support(features, support, own), query)


def entity_catalog_of(data: Dataset, homes: ItemOwnership, entities: IntArray) -> EntityCatalog:
    """The items of T entities, padded."""
    count = np.diff(homes.indptr)[entities]
    width = int(count.max(initial=0)) + FIRST
    offset = np.arange(width) - FIRST
    inside = (offset >= 0) & (offset < count[:, None])
    place = np.where(inside, homes.indptr[entities][:, None] + offset, 0)
    item = np.where(inside, homes.item[place] if len(homes.item) else 0, PAD)
    flat = lookup_rows(data.items, item.reshape(-1))
    features = {k: v.reshape(*item.shape, *v.shape[1:]) for k, v in flat.items() if k != data.schema.home}
    return EntityCatalog(torch.from_numpy(item), features, torch.from_numpy(inside))


def _localised(homes: ItemOwnership, entity: Tensor, rows: Interactions) -> Interactions:
    """Items as ids of the catalogue of their task; one that is at home elsewhere is unknown."""
    local = torch.from_numpy(homes.local).to(entity.device)
    owner = torch.from_numpy(homes.owner).to(entity.device)

    def own(item: Tensor) -> Tensor:
        at_home = owner[item] == entity.view(-1, *[1] * (item.dim() - 1))
        return torch.where(item >= FIRST, torch.where(at_home, local[item], UNKNOWN), item)

    return replace(rows, item=own(rows.item), history=None if rows.history is None else own(rows.history))


def collate(items: list[list[int]], labels: list[list[float]]) -> Interactions:
    """Rows of T newcomers given as lists (what serving has) -> padded rows [T, S]. Raises ValueError on unequal
    lengths."""
    count = [len(row) for row in items]
    if [len(row) for row in labels] != count:
        raise ValueError("each support needs one label for each item")
    width = max(count, default=0)
    # Padded as lists: for one newcomer a tenth of the time of the tensor way round.
    item = [row + [PAD] * (width - n) for row, n in zip(items, count, strict=True)]
    label = [row + [0.0] * (width - n) for row, n in zip(labels, count, strict=True)]
    mask = np.arange(width) < np.array(count, np.int64)[:, None]
    shape = len(items), width
    # Through NumPy: it takes lists in at a third of torch's time.
    ids, given = np.array(item, np.int64).reshape(shape), np.array(label, np.float32).reshape(shape)
    return Interactions(torch.from_numpy(ids), torch.from_numpy(given), torch.from_numpy(mask))
