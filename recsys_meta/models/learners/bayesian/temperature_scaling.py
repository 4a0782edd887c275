"""Temperature scaling after training: a factor on the logit for each support size, fitted on held-out entities.

A slope without an offset (Guo et al. 2017): an offset would carry the click rate of the entities it is fitted on over
to new entities with another rate, and had a larger loss on meta-validation entities that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import Interactions

ROUNDS = 10
"""Newton steps; one unknown needs few."""
SHRINKAGE = 10.0
"""Ridge towards a slope of 1, in rows of unit logit for each entity: errors of one entity's rows are correlated."""


def fit_temperatures(
    sizes: Sequence[float], logits: Sequence[Tensor], queries: Sequence[Interactions], knots: Sequence[int]
) -> Tensor:
    """Slopes [K] at the knots (support sizes), interpolated in log(1 + n) from fits to logits [T, Q] at some sizes."""
    factors = np.array([fit_temperature(logit, query) for logit, query in zip(logits, queries, strict=True)])
    order = np.argsort(sizes, kind="stable")
    places, positions = np.log1p(np.asarray(knots, float)), np.log1p(np.asarray(sizes, float)[order])
    return torch.from_numpy(np.interp(places, positions, factors[order]).astype(np.float32))


def fit_temperature(logit: Tensor, rows: Interactions) -> float:
    """Factor on logits [T, Q] of least log-loss, with a ridge towards 1."""
    x, label = logit[rows.mask].double(), rows.label[rows.mask].double()
    ridge = SHRINKAGE * max(1.0, float(rows.mask.any(1).sum()))
    factor = torch.ones((), dtype=torch.float64, device=x.device)
    for _ in range(ROUNDS):
        probability = torch.sigmoid(factor * x)
        pull = (x * (label - probability)).sum() - ridge * (factor - 1)
        factor = factor + (pull / ((x * x * probability * (1 - probability)).sum() + ridge)).clamp(-0.5, 0.5)
    return float(factor)
