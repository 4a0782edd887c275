"""Features of every item of a catalogue at each row: those of `choice_features`, arranged for whole catalogues.

Most numbers of a candidate depend on the item alone, and those of its history only on the few items that the history
holds. So the former are made once for an entity, the latter for the history alone; what is left for every pair of row
and item are seven numbers, most of them rows of tables over pairs of items. In lists of candidates all of them are
made for each row anew, which costs several times as much for each item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, PAD, Interactions, State
from recsys_meta.models.functional.choice_features import (
    CANDIDATE_FEATURES,
    DISTANCE_RESOLUTION,
    SEQUENTIAL,
    UNKNOWN_DISTANCE,
    basic_features,
    sequential_features,
    trim_columns,
)
from recsys_meta.models.functional.choice_statistics import (
    EXACT_DISTANCE,
    KERNEL_WIDTHS,
    are_located,
    gather_by_task,
    row_history,
)

ROW_COLUMNS = tuple(
    CANDIDATE_FEATURES.index(name) for name in ("near_last", "near_history", "around_history", *SEQUENTIAL)
)
"""Positions among CANDIDATE_FEATURES of those that depend on row and item."""
ITEM_COLUMNS = tuple(i for i in range(len(CANDIDATE_FEATURES)) if i not in ROW_COLUMNS)
"""Positions of those that depend on the item alone, as long as it is not in the row's history."""
LIST_COST = 4
"""Items of a whole catalogue that cost about as much as one candidate of a list."""


@dataclass(frozen=True)
class CatalogueFeatures:
    """Features of T catalogues of C items at R rows.

    items [T, C, I]: those of ITEM_COLUMNS for an item that is not in the history; pairs [T, R, C, P]: those of
    ROW_COLUMNS; visited [T, R, H, F]: all CANDIDATE_FEATURES of the items of the history, history [T, R, H]: their ids,
    each once, PAD elsewhere.
    """

    items: Tensor
    pairs: Tensor
    visited: Tensor
    history: Tensor


def pays_whole(state: State, candidates: int) -> bool:
    """True where features of all items of the catalogues cost less than those of so many candidates of each row."""
    return state["listed"].shape[1] - FIRST <= LIST_COST * candidates


def catalogue_features(state: State, rows: Interactions) -> CatalogueFeatures:
    """Features of every item at each row, given its history and context; reserved ids have zeros."""
    history = trim_columns(row_history(rows))
    exists = state["listed"]
    items = torch.stack(_item_columns(state), 2) * exists[..., None]
    pairs = torch.stack([*_distance_columns(state, history), *sequential_features(state, rows, None)], 3)
    pairs.mul_(exists[:, None, :, None])
    real = history >= FIRST
    equal = (history[..., :, None] == history[..., None, :]) & real[..., None, :]
    once = torch.where(real & ~equal.tril(-1).any(3), history, PAD)
    return CatalogueFeatures(items, pairs, _visited(items, pairs, once, equal), once)


def _item_columns(state: State) -> list[Tensor]:
    """Columns [T, C] of ITEM_COLUMNS, without any history."""
    count, found, nothing = state["count"], state["found"], torch.zeros_like(state["count"])
    by_name: Mapping[str, Tensor] = {
        "log_count": count.log1p(),
        "uncounted": (count == 0).float(),
        "log_finders": found.log1p(),
        "unfound": (found == 0).float(),
        "unlocated": (~state["located"]).float(),
        **{f"popular_nearby_{w:g}": v for w, v in zip(KERNEL_WIDTHS, state["near"].log1p().unbind(2), strict=True)},
        **{f"dense_nearby_{w:g}": v for w, v in zip(KERNEL_WIDTHS, state["dense"].log1p().unbind(2), strict=True)},
    }
    return [by_name.get(CANDIDATE_FEATURES[i], nothing) for i in ITEM_COLUMNS]


def basic_columns(state: State, rows: Interactions, candidates: Tensor) -> Tensor:
    """The features of `basic_features`, [T, R, K, 6], made in whichever way costs less for so many candidates."""
    if not pays_whole(state, candidates.shape[2]):
        return basic_features(state, rows, candidates)
    history = trim_columns(row_history(rows))
    real = (history >= FIRST).float()
    apart, index = _distances(state, history)
    count = state["count"][:, None]
    nothing = torch.zeros(*history.shape[:2], count.shape[2], device=count.device)
    columns = [
        count.log1p(),
        (count == 0).float(),
        *_last_and_nearest(_nearness(apart), index),
        nothing.scatter_add(2, history, real).log1p(),
        nothing.scatter(2, history[..., :1], real[..., :1]),
    ]
    return torch.stack([c.expand_as(nothing).gather(2, candidates) for c in columns], 3)


def _distance_columns(state: State, history: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Columns [T, R, C]: log nearness to the last item and to the nearest of the history, and the mean of exp(-km / 2)
    over the history."""
    apart, index = _distances(state, history)
    nearness, real = _nearness(apart), (history >= FIRST).float()
    visits = torch.zeros(*history.shape[:2], apart.shape[1], device=history.device).scatter_add(2, index, real)
    around = visits @ torch.exp(-apart / 2) / real.sum(2, keepdim=True).clamp(min=1)
    return *_last_and_nearest(nearness, index), around


def _distances(state: State, history: Tensor) -> tuple[Tensor, Tensor]:
    """Distances [T, U, C] in km of every item to U items, infinite where a location is missing, and positions [T, R, H]
    of the histories' items among the U: all items, or each row's history where that is fewer."""
    tasks, count, depth = history.shape
    place = state["place"]
    columns, device = place.shape[1], place.device
    if count * depth < columns:
        origin = history.flatten(1)
        index = torch.arange(count * depth, device=device).view(1, count, depth).expand(tasks, -1, -1)
    else:
        origin, index = torch.arange(columns, device=device).expand(tasks, -1), history
    apart = torch.cdist(gather_by_task(place, origin), place, compute_mode=EXACT_DISTANCE)
    both = are_located(state, origin)[:, :, None] & state["located"][:, None, :]
    return apart.masked_fill(~both, torch.inf), index


def _nearness(apart: Tensor) -> Tensor:
    """Log nearness of distances in km; -inf of an infinite one."""
    return -torch.log(apart + DISTANCE_RESOLUTION)


def _last_and_nearest(nearness: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Log nearness [T, R, C] of every item to the last and to the nearest item of each history, of which `index` are
    the positions [T, R, H] in nearness [T, U, C]."""
    unknown = -math.log(UNKNOWN_DISTANCE + DISTANCE_RESOLUTION)
    near = gather_by_task(nearness, index)
    return tuple(v.masked_fill(v.isinf(), unknown) for v in (near[:, :, 0], near.amax(2)))  # type: ignore[return-value]


def _visited(items: Tensor, pairs: Tensor, once: Tensor, equal: Tensor) -> Tensor:
    """Features [T, R, H, F] of the items of histories, of which `once` [T, R, H] are ids; equal [T, R, H, H]: the two
    items are the same. Zeros where there is none."""
    depth = once.shape[2]
    columns = torch.zeros(*once.shape, len(CANDIDATE_FEATURES), device=once.device)
    columns[..., list(ITEM_COLUMNS)] = gather_by_task(items, once)
    columns[..., list(ROW_COLUMNS)] = pairs.gather(2, once[..., None].expand(-1, -1, -1, pairs.shape[3]))
    own = {
        "log_own_visits": equal.sum(3).float().log1p(),
        "is_last": equal[..., 0].float(),
        "is_visited": torch.ones(once.shape, device=once.device),
        "recency": (1 / torch.arange(1, depth + 1, device=once.device)).expand(once.shape),
    }
    for name, value in own.items():
        columns[..., CANDIDATE_FEATURES.index(name)] = value
    return columns * (once >= FIRST)[..., None]
