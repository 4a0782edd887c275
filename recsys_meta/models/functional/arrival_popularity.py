"""Popularity by time of arrival: counts of items in bins of arrival times, and weights of the bins for a new entity.

Arrivals of past entities are cut into equally filled bins; for a new entity a bin weighs exp(-d / width), with d its
distance in bins from the entity's own arrival. A missing arrival counts as the latest.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import ARRIVAL
from recsys_meta.core.types import Params
from recsys_meta.models.functional.interpolation import linear_interpolation_weights, quantile_knots

BINS = 32


def binned_counts(data: Dataset, entity: Tensor, item: Tensor, entities: np.ndarray) -> Params:
    """Count events of each item among the entities of each bin of arrivals: edges [B] and counts [B, C].

    Rows are (entity [R], a position in `entities`; item [R]). One bin where the data have no arrivals.
    """
    column = data.entities.get(ARRIVAL.name)
    arrivals = np.zeros(len(entities)) if column is None else np.asarray(column.values[entities], np.float64)
    edges = quantile_knots(arrivals, BINS)
    bins = bin_of(torch.from_numpy(arrivals).float(), edges)
    counts = torch.zeros(len(edges) * data.catalogue)
    counts += torch.bincount(bins[entity] * data.catalogue + item, minlength=len(counts))
    return {"edges": edges, "counts": counts.reshape(len(edges), data.catalogue)}


def bin_of(arrival: Tensor, edges: Tensor) -> Tensor:
    """Bin of each arrival [T], [T] int64."""
    latest = torch.where(torch.isnan(arrival), edges[-1], arrival)
    return (torch.searchsorted(edges, latest.contiguous(), right=True) - 1).clamp(0, len(edges) - 1)


def bin_weights(arrival: Tensor, edges: Tensor, width: float) -> Tensor:
    """Weights [T, B] of the bins for entities with these arrivals [T]; `width` is in bins."""
    latest = torch.where(torch.isnan(arrival), edges[-1], arrival)
    bins = torch.arange(len(edges), dtype=edges.dtype, device=edges.device)
    return torch.exp(-(bins - (linear_interpolation_weights(latest, edges) @ bins)[:, None]).abs() / width)
