"""Features of a candidate at a row: what the support, the row's history and its context tell about each item.

`support_summary` computes from a support all that any row will need; it is all that an adapted entity has to keep.
`candidate_features` then looks at rows and candidates. Nothing here is learned: every number is a count, a distance or
an indicator, compressed by a logarithm, so that a linear model can weigh them. (The first six are those of a pooled
logit in CHAML's layout; the base model of Chen et al. 2021 has inputs of the same kinds.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, Interactions, State
from recsys_meta.models.functional.choice_statistics import (
    EARTH_RADIUS,
    EXACT_DISTANCE,
    KERNEL_WIDTHS,
    are_located,
    distance_kernels,
    evenly_spaced_items,
    gather_by_task,
    row_history,
    sum_by_item,
    support_statistics,
    support_summary,
)  # fmt: skip
from recsys_meta.models.functional.host_reads import most_needed

__all__ = [
    "BASIC",
    "CANDIDATE_FEATURES",
    "EARTH_RADIUS",
    "ROW_FEATURES",
    "VISITED",
    "basic_features",
    "candidate_features",
    "evenly_spaced_items",
    "row_features",
    "row_history",
    "sequential_features",
    "support_statistics",
    "support_summary",
    "trim_columns",
]  # fmt: skip

DISTANCE_RESOLUTION = 0.05
"""Distances below so many km count as equal: coordinates are no more precise."""
UNKNOWN_DISTANCE = 5.0
"""Distance in km where a location is missing."""
CANDIDATE_FEATURES = (
    "log_count",
    "uncounted",
    "near_last",
    "near_history",
    "log_own_visits",
    "is_last",
    "is_visited",
    "log_finders",
    "unfound",
    *(f"popular_nearby_{w:g}" for w in KERNEL_WIDTHS),
    *(f"dense_nearby_{w:g}" for w in KERNEL_WIDTHS),
    "around_history",
    "recency",
    "log_steps",
    "log_steps_nearby",
    "log_together",
    "log_at_this_time",
    "unlocated",
)
"""Names of the features of a candidate, in order. Finders are the support's rows in which an actor visited the item for
the first time; steps are moves to it from the actor's last item (or from one nearby); together is the share of the
actor's history that the item's visitors have in common with it."""
BASIC = tuple(range(6))
"""Positions of the six features of the pooled logit."""
VISITED = CANDIDATE_FEATURES.index("is_visited")
"""Position of the indicator that the actor visited the item before."""

ROW_FEATURES = ("history", "distinct", "stayed", "log_size", "log_items", "rows_per_item")
"""Names of the features of a row alone, in order."""


def basic_features(state: State, rows: Interactions, candidates: Tensor) -> Tensor:
    """The first six features alone, [T, R, K, 6], from `support_statistics`."""
    history = trim_columns(row_history(rows))
    same = _in_history(candidates, history)
    last, least, _ = _distances(state, candidates, history)
    return torch.stack(_basic_columns(gather_by_task(state["count"], candidates), last, least, same), 3)


def candidate_features(state: State, rows: Interactions, candidates: Tensor, leave_one_out: bool = False) -> Tensor:
    """Features [T, R, K, F] of the candidates [T, R, K] of each row, given its history and context.

    Without a history, or with a location missing, a distance counts as UNKNOWN_DISTANCE; ids outside the catalogue have
    zeros. `leave_one_out`: the rows are those of the support itself, and each is left out of the statistics it sees.
    """
    history = trim_columns(row_history(rows))
    count, discoveries, exists, near = (
        gather_by_task(state[k], candidates) for k in ("count", "found", "listed", "near")
    )
    if leave_one_out:
        count, discoveries, near = _leave_row_out(state, rows.item, candidates, count, discoveries, near)
    same = _in_history(candidates, history)
    last, least, around = _distances(state, candidates, history)
    lately = (same / torch.arange(1, history.shape[2] + 1, device=history.device)).amax(3)
    columns = [
        *_basic_columns(count, last, least, same),
        same.any(3).float(),
        discoveries.log1p(),
        (discoveries == 0).float(),
        *near.log1p().unbind(3),
        *gather_by_task(state["dense"], candidates).log1p().unbind(3),
        around,
        lately,
        *sequential_features(state, rows, candidates, leave_one_out=leave_one_out),
        (~are_located(state, candidates)).float(),
    ]
    return torch.stack(columns, 3) * exists[..., None]


def _in_history(candidates: Tensor, history: Tensor) -> Tensor:
    """Mask [T, R, K, H]: the candidate is that item of the row's history."""
    return (candidates[..., None] == history[:, :, None, :]) & (history >= FIRST)[:, :, None, :]


def _distances(state: State, candidates: Tensor, history: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distances in km from each candidate to the last item and to the nearest of the history, UNKNOWN_DISTANCE where
    one is missing, and the mean of exp(-km / 2) over the history; each [T, R, K]."""
    apart = _distance_matrix(state, candidates, history)
    last, least = apart[..., 0], apart.amin(3)
    history_length = (history >= FIRST).sum(2)[:, :, None].clamp(min=1)
    around = torch.exp(-apart / 2).sum(3) / history_length
    return (
        torch.where(last.isinf(), UNKNOWN_DISTANCE, last),
        torch.where(least.isinf(), UNKNOWN_DISTANCE, least),
        around,
    )


def _basic_columns(count: Tensor, last: Tensor, least: Tensor, same: Tensor) -> list[Tensor]:
    return [
        count.log1p(),
        (count == 0).float(),
        -torch.log(last + DISTANCE_RESOLUTION),
        -torch.log(least + DISTANCE_RESOLUTION),
        same.sum(3).float().log1p(),
        same[..., 0].float(),
    ]


def _leave_row_out(
    state: State, item: Tensor, candidates: Tensor, count: Tensor, discoveries: Tensor, near: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Counts, discoveries and nearby sums of the candidates less the row's own share; item [T, S] are the support's."""
    itself = ((candidates == item[:, :, None]) & (candidates >= FIRST)).float()
    fresh = ((item >= FIRST) & ~(state["history"] == item[:, :, None]).any(2)).float()[:, :, None]
    near_it = torch.stack(distance_kernels(_distance_matrix(state, candidates, item[:, :, None])[..., 0]), 3)
    both_located = are_located(state, candidates) & are_located(state, item)[:, :, None]
    contribution = near_it * (fresh * both_located * (1 - itself))[..., None]
    return count - itself, discoveries - fresh * itself, (near - contribution).clamp(min=0)


def row_features(state: State, rows: Interactions) -> Tensor:
    """Features [T, R, G] of each row alone: length and variety of its history, and the size of its entity's support."""
    history = trim_columns(row_history(rows))
    real = history >= FIRST
    length = real.sum(2).float()
    again = ((history[..., :, None] == history[..., None, :]) & real[..., None, :]).tril(-1).any(3) & real
    distinct = length - again.sum(2)
    last_revisited = (real[..., 0] & (history[..., :1] == history[..., 1:]).any(2)).float()
    items = state["listed"].sum(1).float()[:, None].expand_as(length)
    size = state["size"][:, None].expand_as(length)
    columns = [
        length.log1p(),
        distinct / length.clamp(min=1),
        last_revisited,
        size.log1p(),
        items.log1p(),
        (size / items.clamp(min=1)).log1p(),
    ]
    return torch.stack(columns, 2)


def trim_columns(history: Tensor) -> Tensor:
    """History without the columns at its end that are padding in all rows; at least one column."""
    depth = torch.arange(1, history.shape[2] + 1, device=history.device)
    width = max(1, most_needed((history >= FIRST).flatten(0, 1).any(0) * depth, history.shape[2]))
    return history[:, :, :width]


def _distance_matrix(state: State, candidates: Tensor, history: Tensor) -> Tensor:
    """Distances [T, R, K, H] in km from candidates to the history, infinite where a location is missing."""
    tasks, rows = candidates.shape[:2]
    there, here = gather_by_task(state["place"], history), gather_by_task(state["place"], candidates)
    apart = torch.cdist(here.flatten(0, 1), there.flatten(0, 1), compute_mode=EXACT_DISTANCE)
    both_located = are_located(state, candidates)[..., None] & are_located(state, history)[:, :, None, :]
    return torch.where(both_located, apart.view(tasks, rows, *apart.shape[1:]), torch.inf)


SEQUENTIAL = ("log_steps", "log_steps_nearby", "log_together", "log_at_this_time")


def sequential_features(
    state: State,
    rows: Interactions,
    candidates: Tensor | None,
    names: Sequence[str] = SEQUENTIAL,
    leave_one_out: bool = False,
) -> list[Tensor]:
    """log(1 + n) of the support rows n of each candidate, [T, R, K] for each name, weighted by their similarity to the
    row: same last item; last item nearby; items of the history in common; same context. Candidates None: every column
    of the catalogues, [T, R, C]."""
    items = state["item"]
    if not items.shape[1]:
        shape = (*rows.item.shape, state["count"].shape[1]) if candidates is None else candidates.shape
        return [torch.zeros(shape, device=items.device)] * len(names)
    history = trim_columns(row_history(rows))
    likeness = {
        "log_steps": lambda: _transition_similarity(state, history, nearby=False),
        "log_steps_nearby": lambda: _transition_similarity(state, history, nearby=True),
        "log_together": lambda: _history_overlap(state, history),
        "log_at_this_time": lambda: _context_similarity(state, rows),
    }
    others = 1 - torch.eye(items.shape[1], device=items.device) if leave_one_out else 1.0
    columns = state["count"].shape[1]
    counts = [sum_by_item(items[:, None, :], likeness[n]() * others, columns) for n in names]
    return [(s if candidates is None else s.gather(2, candidates)).log1p() for s in counts]


def _transition_similarity(state: State, history: Tensor, nearby: bool) -> Tensor:
    """Similarity [T, R, S] of the last items of rows and support rows: 1 if equal, else 0; with `nearby`, exp(-km)."""
    last, before = history[..., 0], state["history"][..., 0]
    both_real = (last >= FIRST)[:, :, None] & (before >= FIRST)[:, None, :]
    if not nearby:
        return ((last[:, :, None] == before[:, None, :]) & both_real).float()
    apart = torch.cdist(
        gather_by_task(state["place"], last), gather_by_task(state["place"], before), compute_mode=EXACT_DISTANCE
    )
    locations = both_real & are_located(state, last)[:, :, None] & are_located(state, before)[:, None, :]
    return torch.exp(-apart) * locations


def _history_overlap(state: State, history: Tensor) -> Tensor:
    """Cosine [T, R, S] between the sets of items in the histories of rows and support rows."""
    item, past = state["item"], state["history"]
    columns = state["count"].shape[1]
    row_basket = torch.zeros(*history.shape[:2], columns, device=history.device).scatter(2, history, 1.0)
    row_basket[..., :FIRST] = 0
    support_basket = torch.zeros(*item.shape, columns, device=history.device).scatter(2, past, 1.0)
    support_basket[..., :FIRST] = 0
    size = (row_basket.sum(2)[:, :, None] * support_basket.sum(2)[:, None, :]).clamp(min=1).sqrt()
    return row_basket @ support_basket.transpose(1, 2) / size


def _context_similarity(state: State, rows: Interactions) -> Tensor:
    """Share [T, R, S] of the categorical context fields in which a support row equals the row."""
    names = [k for k in rows.context if f"when.{k}" in state]
    if not names:
        return torch.zeros(*rows.item.shape, state["item"].shape[1], device=rows.item.device)
    alike = [
        (rows.context[k][:, :, None] == state[f"when.{k}"][:, None, :]) & (rows.context[k] >= FIRST)[:, :, None]
        for k in names
    ]
    return torch.stack(alike).float().mean(0)
