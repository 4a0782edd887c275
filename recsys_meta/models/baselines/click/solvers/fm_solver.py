"""Factorisation machines: a weight and a vector for each value, with the gradient written out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from scipy.special import expit
from torch import Tensor

from recsys_meta.core.types import FloatArray

EPOCHS, RATE, LARGEST, LEAST_STEPS = 10, 0.03, 8_192, 100
_FIRST, _SECOND, _TINY = 0.9, 0.99, 1e-8
"""Adam's decays of the two moments, and what keeps its steps finite."""


def fit_machine(fields: Sequence[sp.csr_matrix], label: Tensor, dims: int, ridge: float, seed: int) -> list[Tensor]:
    """Tables [V_f, 1 + dims] of the fields: a weight, then a vector, for each column.

    logit = sum of the fields' weights + sum over pairs of fields of the dot product of their vectors, where a field's
    weight and vector are those of its columns times the row's entries (Rendle 2010, with a field of several values
    pooled before it interacts). Log-loss plus half of ridge times the squares, by Adam on mini-batches of a fixed order
    with a rate that falls to 0. The first field is the constant, which takes no part in pairs and has no ridge.
    """
    rng = np.random.default_rng(seed)
    y, ends = label.double().numpy(), np.cumsum([x.shape[1] for x in fields])
    places = [slice(end - x.shape[1], end) for x, end in zip(fields, ends, strict=True)]
    theta = 0.05 * rng.standard_normal((int(ends[-1]), 1 + dims))
    theta[:, 0], theta[places[0]] = 0, 0
    penalty = np.full((len(theta), 1), ridge / max(len(y), 1))
    penalty[places[0]] = 0
    batch = int(np.clip(len(y) // LEAST_STEPS, 32, LARGEST))
    total, step = EPOCHS * -(-len(y) // batch), 0
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    for _ in range(EPOCHS):
        order = rng.permutation(len(y))
        mixed = [x[order] for x in fields]
        for start in range(0, len(y), batch):
            part = [x[start : start + batch] for x in mixed]
            slope = _slope(part, places, theta, y[order[start : start + batch]]) + penalty * theta
            first = _FIRST * first + (1 - _FIRST) * slope
            second = _SECOND * second + (1 - _SECOND) * slope**2
            step += 1
            size = np.sqrt(second / (1 - _SECOND**step)) + _TINY
            theta -= RATE * (1 - (step - 1) / total) / (1 - _FIRST**step) * first / size
    return [torch.from_numpy(theta[place].copy()) for place in places]


def _slope(part: Sequence[sp.csr_matrix], places: Sequence[slice], theta: FloatArray, y: FloatArray) -> FloatArray:
    """The gradient [V, 1 + D] of the mean log-loss over some rows."""
    pooled = np.stack([x @ theta[place] for x, place in zip(part, places, strict=True)])
    own = pooled[1:, :, 1:]
    vectors = own.sum(0)
    logit = pooled[:, :, 0].sum(0) + ((vectors**2).sum(1) - (own**2).sum((0, 2))) / 2
    error = (expit(logit) - y) / len(y)
    slope = np.zeros_like(theta)
    for f, (x, place) in enumerate(zip(part, places, strict=True)):
        inner = np.zeros_like(pooled[f])
        inner[:, 0] = error
        if f:
            inner[:, 1:] = error[:, None] * (vectors - pooled[f, :, 1:])
        slope[place] = x.T @ inner
    return slope
