"""Additive models of a label in sparse columns: ridge-penalized logistic or least-squares regression."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from recsys_meta.core.types import FloatArray

Likelihood = Literal["logistic", "squared"]
SOLVER_STEPS = 120
"""Most iterations of L-BFGS."""


def fit_additive(columns: sp.csr_matrix, label: Tensor, ridge: FloatArray, likelihood: Likelihood) -> Tensor:
    """Fit weights [V] float64 of columns [R, V] to label [R] by L-BFGS.

    They minimize the loss plus half of ridge [V] times their squares. Deterministic. Columns without entries have the
    weight 0.
    """
    target = label.double().numpy()
    start = np.zeros(columns.shape[1])
    if not len(target) or not columns.shape[1]:
        return torch.from_numpy(start)
    transpose = columns.T.tocsr()

    def loss(w: FloatArray) -> tuple[float, FloatArray]:
        eta = columns @ w
        if likelihood == "logistic":
            value, error = np.logaddexp(0, eta) @ np.ones_like(target) - eta @ target, expit(eta) - target
        else:
            error = eta - target
            value = error @ error / 2
        return float(value + (ridge * w) @ w / 2), transpose @ error + ridge * w

    # Columns differ in frequency by orders of magnitude: scaled by their curvature they are well conditioned.
    scale = 1 / np.sqrt(np.asarray(columns.multiply(columns).sum(0)).reshape(-1) * 0.25 + ridge + 1e-9)

    def scaled(u: FloatArray) -> tuple[float, FloatArray]:
        value, slope = loss(u * scale)
        return value / len(target), slope * scale / len(target)

    result = minimize(
        scaled, start, jac=True, method="L-BFGS-B", options={"maxiter": SOLVER_STEPS, "ftol": 1e-9, "gtol": 1e-8}
    )
    return torch.from_numpy(result.x * scale)
