"""Warm and cold, for both sides: known or new entity times known or new item (protocol U3 of docs/evaluation.md).

            known item                          new item
known       held-out rows of training entities  rows of training entities on items never trained on
new         rows of test entities               rows of test entities on items never trained on

Nothing that any corner shows or asks about is in the rows that training sees: support and query of a corner both
come from its own rows.
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
    """One of the four: whose rows are asked about, and which items [C] bool are ranked."""

    scenario: Scenario
    entities: IntArray
    index: EventIndex
    shown: torch.Tensor


@dataclass(frozen=True)
class WarmColdGrid:
    """The four corners, and the rows that training may see."""

    training: EventIndex
    corners: Mapping[Scenario, WarmColdCell]


def four_corners(
    data: Dataset, index: EventIndex, split: EntitySplit, *, seed: int, new_items: float = 0.2, held_out: float = 0.2
) -> WarmColdGrid:
    """Split items into known and new, and rows of training entities into kept and held out.

    New items are the last to appear where times are exact, else drawn by the seed. Held-out rows are the last of
    each training entity, or random ones. Names read entity-item: 'new-known' is a new entity on known items.
    An item that never occurs is new, too. Raises ConfigError when a side would be empty.
    """
    if not (0 < new_items < 1 and 0 < held_out < 1):
        raise ConfigError("the shares of new items and of held-out rows must lie between 0 and 1")
    rows = index if data.schema.order == "time" else index.shuffled(seed)
    fresh = _new_items(data, rows, seed, new_items)
    on_new = fresh[rows.item.long()]
    known_rows = rows.select(~on_new)
    new_rows = rows.select(on_new)
    late = _late(known_rows, split.train, held_out)
    shown_known, shown_new = ~fresh, fresh.clone()
    shown_known[:FIRST] = False
    corners: dict[Scenario, WarmColdCell] = {
        "known-known": WarmColdCell("known-known", split.train, known_rows.select(late), shown_known),
        "known-new": WarmColdCell("known-new", split.train, new_rows, shown_new),
        "new-known": WarmColdCell("new-known", split.test, known_rows, shown_known),
        "new-new": WarmColdCell("new-new", split.test, new_rows, shown_new),
    }
    for name, corner in corners.items():
        if not int(corner.index.counts[torch.from_numpy(corner.entities)].sum()):
            raise ConfigError(f"the corner '{name}' would have no rows: there are too few, or change the shares")
    return WarmColdGrid(known_rows.select(~late), corners)


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
    fresh = ~occurs
    fresh[:FIRST] = False
    fresh[order[occurs[order]][-count:]] = True
    return torch.from_numpy(fresh)


def _late(rows: EventIndex, train: IntArray, share: float) -> torch.Tensor:
    """The last rows of training entities, [N] bool."""
    entity, _ = rows.flatten(torch.arange(len(rows.counts)))
    rank = torch.arange(len(entity)) - rows.indptr[entity]
    count = rows.counts[entity]
    member = torch.zeros(len(rows.counts), dtype=torch.bool)
    member[torch.from_numpy(np.asarray(train))] = True
    return member[entity] & (rank >= (count * (1 - share)).ceil()) & (count > 1)
