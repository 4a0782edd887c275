"""Additive models of a label in sparse columns: ridge-penalised logistic or least-squares regression."""

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
STEPS = 120


def fit_additive(columns: sp.csr_matrix, label: Tensor, ridge: FloatArray, likelihood: Likelihood) -> Tensor:
    """Weights [V] float64 that minimise the loss of label [R] plus half of ridge [V] times the squares, by L-BFGS.

    Deterministic. Columns that no row fills keep the weight 0.
    """
    y = label.double().numpy()
    start = np.zeros(columns.shape[1])
    if not len(y) or not columns.shape[1]:
        return torch.from_numpy(start)
    across = columns.T.tocsr()

    def loss(w: FloatArray) -> tuple[float, FloatArray]:
        eta = columns @ w
        if likelihood == "logistic":
            value, error = np.logaddexp(0, eta) @ np.ones_like(y) - eta @ y, expit(eta) - y
        else:
            error = eta - y
            value = error @ error / 2
        return float(value + (ridge * w) @ w / 2), across @ error + ridge * w

    # Columns of unequal frequency: in units of their curvature a quasi-Newton step sees them all.
    scale = 1 / np.sqrt(np.asarray(columns.multiply(columns).sum(0)).reshape(-1) * 0.25 + ridge + 1e-9)

    def scaled(u: FloatArray) -> tuple[float, FloatArray]:
        value, slope = loss(u * scale)
        return value / len(y), slope * scale / len(y)

    found = minimize(scaled, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS, "ftol": 1e-9, "gtol": 1e-8})
    return torch.from_numpy(found.x * scale)
