"""When entities came: bins of arrival times, and how much each bin says about a newcomer of a given time.

Arrivals of past entities are cut into equally filled bins; to a newcomer a bin counts exp(-d / width), d the distance
between them in bins. An arrival that is not known counts as the latest.
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
    """edges [B] and counts [B, C]: how often the entities of each bin met each item.

    Rows (entity [R], a position in `entities`, item [R]); one bin where the data have no arrivals.
    """
    column = data.entities.get(ARRIVAL.name)
    arrivals = np.zeros(len(entities)) if column is None else np.asarray(column.values[entities], np.float64)
    edges = quantile_knots(arrivals, BINS)
    bins = bin_of(torch.from_numpy(arrivals).float(), edges)
    counts = torch.zeros(len(edges) * data.catalogue)
    counts += torch.bincount(bins[entity] * data.catalogue + item, minlength=len(counts))
    return {"edges": edges, "counts": counts.reshape(len(edges), data.catalogue)}


def bin_of(arrival: Tensor, edges: Tensor) -> Tensor:
    """The bin of each arrival, [T] int64."""
    latest = torch.where(torch.isnan(arrival), edges[-1], arrival)
    return (torch.searchsorted(edges, latest.contiguous(), right=True) - 1).clamp(0, len(edges) - 1)


def bin_weights(arrival: Tensor, edges: Tensor, width: float) -> Tensor:
    """Weight of each bin for newcomers who arrived then, [T, B]."""
    latest = torch.where(torch.isnan(arrival), edges[-1], arrival)
    bins = torch.arange(len(edges), dtype=edges.dtype, device=edges.device)
    return torch.exp(-(bins - (linear_interpolation_weights(latest, edges) @ bins)[:, None]).abs() / width)
