"""Calibration after training: a temperature of the logit for each support size, on entities not trained on.

A slope alone (Guo et al. 2017): an offset would carry the level of the entities it is fitted on over to newcomers whose
level is another, and did worse when judged on meta-validation entities that it was not fitted on.
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
"""Information, in rows of unit logit for each entity, by which a slope is held to 1: rows of one entity err alike."""


def fit_temperatures(
    sizes: Sequence[float], logits: Sequence[Tensor], queries: Sequence[Interactions], knots: Sequence[int]
) -> Tensor:
    """Slope [K] at each knot (a support size), from logits [T, Q] and labels at some support sizes."""
    factors = np.array([fit_temperature(logit, query) for logit, query in zip(logits, queries, strict=True)])
    order = np.argsort(sizes, kind="stable")
    places, positions = np.log1p(np.asarray(knots, float)), np.log1p(np.asarray(sizes, float)[order])
    return torch.from_numpy(np.interp(places, positions, factors[order]).astype(np.float32))


def fit_temperature(logit: Tensor, rows: Interactions) -> float:
    """The factor on logits [T, Q] of least log-loss, held to 1."""
    x, label = logit[rows.mask].double(), rows.label[rows.mask].double()
    hold = SHRINKAGE * max(1.0, float(rows.mask.any(1).sum()))
    factor = torch.ones((), dtype=torch.float64, device=x.device)
    for _ in range(ROUNDS):
        probability = torch.sigmoid(factor * x)
        pull = (x * (label - probability)).sum() - hold * (factor - 1)
        factor = factor + (pull / ((x * x * probability * (1 - probability)).sum() + hold)).clamp(-0.5, 0.5)
    return float(factor)
