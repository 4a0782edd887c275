"""Warm-cold grid: known or new entities times known or new items (protocol U3 of docs/evaluation.md).

            known item                          new item
known       held-out rows of training entities  rows of training entities on items never trained on
new         rows of test entities               rows of test entities on items never trained on

No support or query row of any cell is a training row: both come from the cell's own rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST, IntArray
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import EntitySplit

Scenario = Literal["new-new", "new-known", "known-new", "known-known"]


@dataclass(frozen=True)
class WarmColdCell:
    """Cell of the grid: the entities evaluated, the index of their rows, and the mask [C] bool of ranked items."""

    scenario: Scenario
    entities: IntArray
    index: EventIndex
    item_mask: torch.Tensor


@dataclass(frozen=True)
class WarmColdGrid:
    """Four cells of warm and cold, and the index of the rows that training may use."""

    training: EventIndex
    cells: Mapping[Scenario, WarmColdCell]


def warm_cold_grid(
    data: Dataset, index: EventIndex, split: EntitySplit, *, seed: int, new_items: float = 0.2, held_out: float = 0.2
) -> WarmColdGrid:
    """Split items into known and new, and the rows of training entities into training and held-out rows.

    New items are the last to appear where times are exact, else drawn by the seed; an item that never occurs is new
    too. Held-out rows are the last of each training entity, or random ones. Names read entity-item: "new-known" is a
    new entity on known items. Raises ConfigError if a share is not between 0 and 1 or a cell would be empty.
    """
    if not (0 < new_items < 1 and 0 < held_out < 1):
        raise ConfigError("the shares of new items and of held-out rows must lie between 0 and 1")
    rows = index if data.schema.order == "time" else index.shuffled(seed)
    is_new_item = _new_items(data, rows, seed, new_items)
    on_new = is_new_item[rows.item.long()]
    known_rows = rows.select(~on_new)
    new_rows = rows.select(on_new)
    is_held_out = _last_rows(known_rows, split.train, held_out)
    known_items, new_items_mask = ~is_new_item, is_new_item.clone()
    known_items[:FIRST] = False
    cells: dict[Scenario, WarmColdCell] = {
        "known-known": WarmColdCell("known-known", split.train, known_rows.select(is_held_out), known_items),
        "known-new": WarmColdCell("known-new", split.train, new_rows, new_items_mask),
        "new-known": WarmColdCell("new-known", split.test, known_rows, known_items),
        "new-new": WarmColdCell("new-new", split.test, new_rows, new_items_mask),
    }
    for name, cell in cells.items():
        if not int(cell.index.counts[torch.from_numpy(cell.entities)].sum()):
            raise ConfigError(f"the cell '{name}' would have no rows: there are too few, or change the shares")
    return WarmColdGrid(known_rows.select(~is_held_out), cells)


def _new_items(data: Dataset, rows: EventIndex, seed: int, share: float) -> torch.Tensor:
    catalogue = data.catalogue
    occurs = np.bincount(rows.item.cpu().numpy(), minlength=catalogue) > 0
    occurs[:FIRST] = False
    count = round(int(occurs.sum()) * share)
    if not 0 < count < occurs.sum():
        raise ConfigError(f"{occurs.sum()} items are too few to hold {share:.0%} of them out")
    if data.schema.order == "time" and data.events.time is not None:
        first = np.full(catalogue, np.iinfo(np.int64).max)
        np.minimum.at(first, np.asarray(data.events.item), np.asarray(data.events.time))
        order = np.argsort(first, kind="stable")
    else:
        order = np.random.default_rng(seed).permutation(catalogue)
    is_new = ~occurs
    is_new[:FIRST] = False
    is_new[order[occurs[order]][-count:]] = True
    return torch.from_numpy(is_new)


def _last_rows(rows: EventIndex, train: IntArray, share: float) -> torch.Tensor:
    """Mask [N] bool of the last `share` of the rows of each training entity with at least two."""
    entity, _ = rows.flatten(torch.arange(len(rows.counts)))
    rank = torch.arange(len(entity)) - rows.indptr[entity]
    count = rows.counts[entity]
    member = torch.zeros(len(rows.counts), dtype=torch.bool)
    member[torch.from_numpy(np.asarray(train))] = True
    return member[entity] & (rank >= (count * (1 - share)).ceil()) & (count > 1)
