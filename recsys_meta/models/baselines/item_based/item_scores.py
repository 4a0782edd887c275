"""From a support to scores of the catalogue: what item-item baselines do alike.

A state holds the support itself, as places in the memory and weights; unknown items and repetitions weigh 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys_meta.core.types import FIRST, Interactions, Params, State


def distinct_weights(rows: Interactions) -> Tensor:
    """Weight [T, S] float32 of each row: 1 for the first row of every known item, else 0."""
    known = rows.mask & (rows.item >= FIRST)
    item, order = torch.where(known, rows.item, 0).sort(dim=1, stable=True)
    again = F.pad(item[:, 1:] == item[:, :-1], (1, 0))
    repeated = torch.zeros_like(again).scatter(1, order, again)
    return (known & ~repeated).to(rows.label.dtype)


def locate_support(body: Params, rows: Interactions) -> State:
    """The support as places in the memory: place [T, S] int64, weight [T, S]."""
    place = body["place"][rows.item]
    weight = distinct_weights(rows) * (place >= 0)
    return {"place": place.clamp(min=0), "weight": weight}


def gather_scores(table: Tensor, place: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of the support's rows of table [M, M], [T, M]; nothing of size T x S x M is made."""
    if place.shape[1] == 0 or not len(table):
        return table.new_zeros(len(place), table.shape[1])
    return F.embedding_bag(place, table, mode="sum", per_sample_weights=weight)


def scatter_scores(values: Tensor, kept: Tensor, catalogue: int) -> Tensor:
    """Scores of the memory's items [T, M] among the whole catalogue [T, C]; the others score 0."""
    if len(kept) == catalogue:
        return values
    return values.new_zeros(len(values), catalogue).index_copy(1, kept, values)


def mix_with_popularity(evidence: Tensor, log_popularity: Tensor, weight: float) -> Tensor:
    """Evidence [T, C] in units of its deviation over the catalogue, plus weight times popularity [C].

    Where the evidence is flat (an empty or unknown support) popularity alone decides, whatever its weight.
    """
    real = evidence[:, FIRST:]
    items = max(real.shape[1], 1)
    centred = real - real.sum(1, keepdim=True) / items
    scale = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / items**0.5
    flat = scale <= 1e-6 * torch.linalg.vector_norm(real, dim=1, keepdim=True)
    standard = (evidence / scale.clamp(min=1e-30)).masked_fill(flat, 0.0)
    scores: Tensor = standard + torch.where(flat, 1.0, weight) * log_popularity
    return scores
