"""Hyper-gradient of the outer rate (Baydin et al. 2018; for meta-learning Behl, Baydin & Torr 2019, Alpha-MAML).

    dL_t / d rate = -g_t . u_(t-1),   rate_t = rate_(t-1) exp(h cos(g_t, u_(t-1)))

g is the meta-gradient and -u the optimiser's last update: while they agree the rate grows, where steps go to and fro it
falls. The cosine in place of the product makes h the same for all losses. u comes from the optimiser's moments, so
nothing is stored beside the rate itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from recsys_meta.core.types import Params

BOUND = 100.0
"""Largest factor on the rate; its inverse is the least."""


@torch.no_grad()
def update_agreement(optimiser: torch.optim.AdamW, params: Params, names: Collection[str]) -> Tensor:
    """Cosine of the gradients of the named parameters and the optimiser's last update of them, a scalar; 0 before the
    first update."""
    groups = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    sums = [torch.zeros(3, device=params[k].device) for k in list(names)[:1]] or [torch.zeros(3)]
    for value in (params[k] for k in sorted(names)):
        moments = optimiser.state.get(value)
        if value.grad is None or not moments:
            continue
        group = groups[id(value)]
        size = (moments["exp_avg_sq"] / (1 - group["betas"][1] ** moments["step"].item())).sqrt() + group["eps"]
        update = group["initial_lr"] * moments["exp_avg"] / size
        pairs = ((value.grad, update), (value.grad, value.grad), (update, update))
        sums.append(torch.stack([(a * b).sum() for a, b in pairs]))
    product, gradient, update_square = torch.stack(sums).sum(0)
    agreement: Tensor = product / (gradient * update_square).sqrt().clamp(min=1e-30)
    return agreement


def next_rate_factor(factor: float, agreement: float, speed: float) -> float:
    """Factor on the outer rate after a step on which gradient and last update agreed by so much."""
    return min(BOUND, max(1 / BOUND, factor * math.exp(speed * agreement)))
