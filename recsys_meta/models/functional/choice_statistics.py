"""Statistics of a support: the state of every predictor that chooses from an entity's own catalogue.

Counts of items, their locations, the density around them, and the support's rows themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.core.schema import LATITUDE, LONGITUDE
from recsys_meta.core.types import FIRST, PAD, EntityCatalog, Interactions, State, Support
from recsys_meta.models.functional.host_reads import most_needed
from recsys_meta.models.functional.size_groups import size_groups

EARTH_RADIUS = 6371.0
"""Mean radius of the earth in km."""
EXACT_DISTANCE = "donot_use_mm_for_euclid_dist"
"""Mode of `torch.cdist` that subtracts coordinates: products of them would lose the last hundred metres."""
KERNEL_WIDTHS = (0.25, 1.0, 4.0)
"""Widths in km of the kernels that count rows and items nearby, each four times the one before."""

DENSITY_SAMPLE = 256
"""Items of a catalogue from which its density is estimated."""
BY_ITEM = ("count", "found", "place", "located", "listed", "near", "dense")
"""Parts of a state that have a column for each item."""


def support_statistics(support: Support) -> State:
    """Counts and locations of T supports, with C items in their catalogues and S support rows.

    size [T]: rows; count, found [T, C]: support rows of each item, and those of an actor's first visit to it; place
    [T, C, 3]: location in km; located, listed [T, C] bool: items with a location, items of the catalogue; item [T, S]
    and history [T, S, H]: the support's rows; when.<name> [T, S]: their categorical context. Raises ValueError
    without a catalogue.
    """
    catalogue, rows = support.catalogue, support.rows
    if catalogue is None:
        raise ValueError("choices are made from an entity's own catalogue, but the support has none")
    item = torch.where(rows.mask & (rows.item >= FIRST), rows.item, PAD)
    real = (item >= FIRST).float()
    history = torch.where((item >= FIRST)[:, :, None], row_history(rows), PAD)
    fresh = real * ~(history == item[:, :, None]).any(2)
    columns = catalogue.item.shape[1]
    points, has_location = _locations(catalogue)
    state = {
        "size": real.sum(1),
        "count": sum_by_item(item, real, columns),
        "found": sum_by_item(item, fresh, columns),
        "place": points,
        "located": has_location,
        "listed": catalogue.mask,
        "item": item,
        "history": history,
    }
    when = {f"when.{k}": v for k, v in rows.context.items() if not v.is_floating_point()}
    return state | {k: torch.where(item >= FIRST, v, PAD) for k, v in when.items()}


def support_summary(support: Support) -> State:
    """All statistics that `candidate_features` needs: those of `support_statistics`, and near, dense [T, C, W]: first
    visits and items around each item, itself left out, for each kernel width."""
    state = support_statistics(support)
    near, dense = _nearby(state)
    return state | {"near": near, "dense": dense}


def row_history(rows: Interactions) -> Tensor:
    """History [T, R, H] of the rows, H at least 1; all padding where the rows have none."""
    if rows.history is None or not rows.history.shape[2]:
        return torch.zeros(*rows.item.shape, 1, dtype=torch.int64, device=rows.item.device)
    return rows.history


def sum_by_item(item: Tensor, weight: Tensor, columns: int) -> Tensor:
    """Sums [..., C] of weights [..., S] by item [..., S]; the reserved ids have 0."""
    sums = torch.zeros(*weight.shape[:-1], columns, dtype=weight.dtype, device=weight.device)
    sums = sums.scatter_add(-1, item.expand_as(weight), weight)
    sums[..., :FIRST] = 0
    return sums


def _locations(catalogue: EntityCatalog) -> tuple[Tensor, Tensor]:
    """Locations [T, C, 3] in km from the centre of each entity's items, and the mask of those that have one [T, C].
    Distances are straight lines through the globe: within 1,000 km they are 0.1% short."""
    blank = torch.full(catalogue.item.shape, torch.nan, device=catalogue.item.device)
    lat, lon = (catalogue.features.get(name, blank).double() for name in (LATITUDE, LONGITUDE))
    has_location = catalogue.mask & torch.isfinite(lat) & torch.isfinite(lon)
    lat, lon = (torch.deg2rad(torch.where(has_location, x, 0.0)) for x in (lat, lon))
    point = torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], 2) * EARTH_RADIUS
    weight = has_location.double()[:, :, None]
    middle = (point * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
    return ((point - middle) * weight).float(), has_location


def evenly_spaced_items(listed: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Items [T, M] at equal intervals of each catalogue, M at most `most`, and the mask [T, M] of those that do not
    repeat. Independent of the support."""
    items = listed.sum(1, keepdim=True)
    most = max(1, most_needed(items, min(most, listed.shape[1] - FIRST)))
    position = torch.arange(most, device=listed.device) * items // most
    distinct = torch.cat([items > 0, position[:, 1:] > position[:, :-1]], 1)
    return torch.where(distinct, position + FIRST, PAD), distinct


def _nearby(state: State) -> tuple[Tensor, Tensor]:
    """Kernel sums of first visits and of items around each item, each [T, C, W], itself left out. Items are counted
    from a sample of the catalogue, so that the cost is bounded."""
    width = (*state["count"].shape, len(KERNEL_WIDTHS))
    near, dense = (torch.zeros(width, device=state["count"].device) for _ in range(2))
    for tasks in size_groups(state["listed"].sum(1)):
        part = state_of_tasks(state, tasks)
        columns = part["listed"].shape[1]
        item = part["item"]
        fresh = (item >= FIRST) & ~(part["history"] == item[:, :, None]).any(2)
        near[tasks, :columns] = _kernel_sums(part, item, fresh.float())
        others, distinct = evenly_spaced_items(part["listed"], DENSITY_SAMPLE)
        share = distinct * (part["listed"].sum(1) / distinct.sum(1).clamp(min=1))[:, None]
        dense[tasks, :columns] = _kernel_sums(part, others, share)
    return near, dense


def _kernel_sums(state: State, ids: Tensor, weight: Tensor) -> Tensor:
    """Sums [T, C, W] over items of ids [T, N] and of weight [T, N] around each item, itself left out, for each kernel
    width; 0 without a location."""
    points = state["place"]
    weight = weight * are_located(state, ids)
    apart = torch.cdist(points, gather_by_task(points, ids), compute_mode=EXACT_DISTANCE)
    around = torch.stack([(kernel @ weight[..., None])[..., 0] for kernel in distance_kernels(apart)], 2)
    # The kernel of an item with itself is 1 at every width.
    itself = sum_by_item(ids, weight, points.shape[1])[..., None]
    return ((around - itself) * state["located"][..., None]).clamp(min=0)


def state_of_tasks(state: State, tasks: Tensor) -> State:
    """State of some tasks, as of `support_statistics`, without the columns and support rows that are padding in all of
    them."""
    part = {k: v[tasks] for k, v in state.items()}
    columns = FIRST + most_needed(part["listed"].sum(1), part["listed"].shape[1] - FIRST)
    is_row = (part["item"] >= FIRST).any(0)
    rows = most_needed(is_row * torch.arange(1, len(is_row) + 1, device=is_row.device), len(is_row))
    by_row = {k: v[:, :rows] for k, v in part.items() if k in ("item", "history") or k.startswith("when.")}
    return part | by_row | {k: part[k][:, :columns] for k in BY_ITEM if k in part}


def distance_kernels(apart: Tensor) -> list[Tensor]:
    """Kernels exp(-km / width), one for each of KERNEL_WIDTHS: each is the fourth power of the next wider one, so that
    one exponential suffices."""
    wide = torch.exp(apart * (-1 / KERNEL_WIDTHS[-1]))
    kernels = [wide]
    for _ in KERNEL_WIDTHS[1:]:
        kernels.append(kernels[-1].square().square())
    return kernels[::-1]


def gather_by_task(table: Tensor, ids: Tensor) -> Tensor:
    """Gather rows of each task's table [T, C, ...] at its ids [T, ...]."""
    task = torch.arange(len(ids), device=ids.device).view(-1, *[1] * (ids.dim() - 1))
    return table[task, ids]


def are_located(state: State, ids: Tensor) -> Tensor:
    """Mask of the ids [T, ...] whose items have a location."""
    return gather_by_task(state["located"], ids)
