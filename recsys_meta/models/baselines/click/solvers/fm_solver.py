"""Factorization machines fitted by Adam, with the gradient in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from scipy.special import expit
from torch import Tensor

from recsys_meta.core.types import FloatArray

EPOCHS, LEARNING_RATE, MAX_BATCH, MIN_STEPS_PER_EPOCH = 10, 0.03, 8_192, 100
_BETA1, _BETA2, _EPSILON = 0.9, 0.99, 1e-8
"""Adam's decay rates of the two moments, and the term that bounds its steps (Kingma and Ba 2015)."""


def fit_factorization_machine(
    fields: Sequence[sp.csr_matrix], label: Tensor, dims: int, ridge: float, seed: int
) -> list[Tensor]:
    """Fit the tables [V_f, 1 + dims] of the fields [R, V_f]: a weight, then a vector, for each column.

    logit = sum of the fields' weights + sum over pairs of fields of the dot product of their vectors, where a field's
    weight and vector are those of its columns times the row's entries (Rendle 2010, with a field of several values
    pooled before it interacts). The loss is log-loss plus half of ridge times the squares, by Adam on mini-batches in a
    seeded order with a learning rate that falls to 0. The first field is the constant: it has no interactions and no
    ridge.
    """
    rng = np.random.default_rng(seed)
    target, ends = label.double().numpy(), np.cumsum([x.shape[1] for x in fields])
    slices = [slice(end - x.shape[1], end) for x, end in zip(fields, ends, strict=True)]
    theta = 0.05 * rng.standard_normal((int(ends[-1]), 1 + dims))
    theta[:, 0], theta[slices[0]] = 0, 0
    penalty = np.full((len(theta), 1), ridge / max(len(target), 1))
    penalty[slices[0]] = 0
    batch = int(np.clip(len(target) // MIN_STEPS_PER_EPOCH, 32, MAX_BATCH))
    total, step = EPOCHS * -(-len(target) // batch), 0
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    for _ in range(EPOCHS):
        order = rng.permutation(len(target))
        shuffle = [x[order] for x in fields]
        for start in range(0, len(target), batch):
            batch_fields = [x[start : start + batch] for x in shuffle]
            gradient = _gradient(batch_fields, slices, theta, target[order[start : start + batch]]) + penalty * theta
            first = _BETA1 * first + (1 - _BETA1) * gradient
            second = _BETA2 * second + (1 - _BETA2) * gradient**2
            step += 1
            size = np.sqrt(second / (1 - _BETA2**step)) + _EPSILON
            theta -= LEARNING_RATE * (1 - (step - 1) / total) / (1 - _BETA1**step) * first / size
    return [torch.from_numpy(theta[columns].copy()) for columns in slices]


def _gradient(
    batch_fields: Sequence[sp.csr_matrix], slices: Sequence[slice], theta: FloatArray, target: FloatArray
) -> FloatArray:
    """Return the gradient [V, 1 + D] of the mean log-loss over the rows of a batch."""
    field_sums = np.stack([x @ theta[columns] for x, columns in zip(batch_fields, slices, strict=True)])
    field_vectors = field_sums[1:, :, 1:]
    vectors = field_vectors.sum(0)
    logit = field_sums[:, :, 0].sum(0) + ((vectors**2).sum(1) - (field_vectors**2).sum((0, 2))) / 2
    error = (expit(logit) - target) / len(target)
    gradient = np.zeros_like(theta)
    for f, (x, columns) in enumerate(zip(batch_fields, slices, strict=True)):
        inner = np.zeros_like(field_sums[f])
        inner[:, 0] = error
        if f:
            inner[:, 1:] = error[:, None] * (vectors - field_sums[f, :, 1:])
        gradient[columns] = x.T @ inner
    return gradient
