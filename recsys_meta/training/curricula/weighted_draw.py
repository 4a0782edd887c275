"""Weighted draws without replacement."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_by_weight(weight: Tensor, count: int, generator: torch.Generator, allowed: Tensor | None = None) -> Tensor:
    """Draw positions [count] int64 by weights [n], without replacement as long as there are enough.

    `allowed` [n] bool restricts the draw; where no allowed position has a weight, all allowed weigh the same.
    """
    if allowed is not None:
        weight = weight.masked_fill(~allowed, 0.0)
    if not (weight > 0).any():
        weight = torch.ones_like(weight) if allowed is None else allowed.double()
    # The largest of log(u) / v are a sample without replacement by v (Efraimidis & Spirakis 2006).
    uniform = torch.rand(len(weight), generator=generator, device=generator.device, dtype=torch.float64).cpu()
    key = (uniform.clamp(min=1e-300).log() / weight).masked_fill(weight <= 0, -torch.inf)
    available = min(count, int((weight > 0).sum()))
    positions = torch.topk(key, available).indices
    return positions.repeat(-(-count // available))[:count]
