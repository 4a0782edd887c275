"""Gaussian posteriors of an entity's weights over fixed item vectors, for a batch of tasks in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import Params
from recsys_meta.models.functional.laplace_posterior import posterior_precision
from recsys_meta.models.functional.linear_algebra import solve, weighted_outer_sum


def fit_gaussian(vectors: Tensor) -> Params:
    """Fit a Gaussian to rows [U, D]: mean [D] and precision [D, D].

    The covariance gets a thousandth of its mean variance on the diagonal, so that one row, or rows in a subspace,
    have a precision too.
    """
    rows = vectors.double()
    mean = rows.mean(0)
    deviations = rows - mean
    covariance = deviations.T @ deviations / max(len(rows), 1)
    covariance.diagonal().add_(1e-3 * float(covariance.diagonal().mean()) + 1e-8)
    return {"mean": mean.float(), "precision": torch.linalg.inv(covariance).float().contiguous()}


def gaussian_posterior(
    body: Params,
    vectors: Tensor,
    weight: Tensor,
    *,
    gain: float,
    target: float,
    zeros: float | Tensor,
    prior: float | Tensor,
) -> Tensor:
    """Posterior mean w [T, D] given the vectors [T, S, D] of the support's items, with `weight` [T, S]:

    (zeros G + gain A'A + prior P) w = target A'1 + prior P m,

    G = body["gram"] the sum of all items' outer products, m and P mean and precision of the prior. `zeros` is the
    weight of the items outside the support as negatives. A new entity has not refused an item that it has not seen
    yet, so with an empty support that weight is 0 and w = m. `zeros` and `prior` are numbers, or [T, 1, 1] with one
    for each task.
    """
    has_rows = (weight.sum(1) > 0).to(vectors.dtype)[:, None, None]
    precision = prior * body["precision"]
    matrix = zeros * has_rows * body["gram"] + gain * weighted_outer_sum(vectors, weight) + precision
    right = target * (vectors * weight.unsqueeze(2)).sum(1) + precision @ body["mean"]
    return solve(matrix, right)


def fold_in_tables(gram: Tensor, precision: Tensor, mean: Tensor, *, zeros: float = 0.0, prior: float = 1.0) -> Params:
    """Precompute for `fold_in` what all entities share: with B = zeros G + prior P the tables precision [D, D] = B,
    inverse [D, D] = B^-1 and start [D] = B^-1 prior P m; and the prior's mean m [D]."""
    pull = prior * precision.double()
    base = zeros * gram.double() + pull
    inverse = torch.linalg.inv(base)
    start = inverse @ (pull @ mean.double())
    tables = {"precision": base.float(), "inverse": inverse.float(), "start": start.float(), "mean": mean}
    return {f"fold.{name}": table for name, table in tables.items()}


def fold_in(body: Params, vectors: Tensor, weight: Tensor, *, gain: float, target: float) -> Tensor:
    """Posterior mean w [T, D] as of `gaussian_posterior`, from tables of `fold_in_tables` in the body.

    (B + gain A'A) w = target A'1 + B w0, w0 the start; or, where that is the smaller system, by the S rows:
    w = w0 + B^-1 A' x with (I + gain A B^-1 A') x = target 1 - gain A w0.
    vectors [T, S, D]; weight [T, S] is 1 or, for rows that do not count, 0. With an empty support w = m.
    """
    if not vectors.shape[1]:
        return body["fold.mean"].expand(len(vectors), -1)
    tables = {name: body["fold." + name] for name in ("precision", "inverse", "start", "mean")}
    if vectors.device.type != "cpu":
        w: Tensor = _fold_in(torch.linalg.solve, torch.where, tables, vectors, weight, gain, target)
        return w
    # In NumPy: for one entity its operations cost a third of torch's, and it solves for one entity after another.
    arrays = {name: table.numpy() for name, table in tables.items()}
    return torch.from_numpy(_fold_in(np.linalg.solve, np.where, arrays, vectors.numpy(), weight.numpy(), gain, target))


def _fold_in(
    solve_all: Any, where: Any, tables: Mapping[str, Any], vectors: Any, weight: Any, gain: float, target: float
) -> Any:
    """Solve `fold_in` with arrays of torch or of NumPy, whose methods and operators are the same here."""
    size, dims = vectors.shape[1:]
    rows, start = vectors * weight[:, :, None], tables["start"]
    columns = rows.swapaxes(1, 2)
    if size > dims:
        right = target * rows.sum(1) + tables["precision"] @ start
        w = solve_all(gain * (columns @ rows) + tables["precision"], right[:, :, None])[:, :, 0]
    else:
        spread = rows @ tables["inverse"]
        system = gain * (spread @ columns)
        system.reshape(len(rows), -1)[:, :: size + 1] += 1
        pull = solve_all(system, (target - gain * (rows @ start))[:, :, None])
        w = start + (pull.swapaxes(1, 2) @ spread)[:, 0]
    return where(weight.any(1)[:, None], w, tables["mean"])


def whitened_posterior(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior of z ~ N(0, I) given residual = x . z + noise: its mean [T, K], and the lower Cholesky factor
    [T, K, K] of its precision.

    x [T, S, K]; residual and weight [T, S], the weight of a row 1 / variance of its noise, 0 for padding. Precisions
    are I + a positive matrix, so they have a Cholesky factor in single precision without any jitter.
    """
    factor = torch.linalg.cholesky(posterior_precision(x, weight))
    pull = x.transpose(1, 2) @ (weight * residual).unsqueeze(2)
    return torch.cholesky_solve(pull, factor).squeeze(2), factor.contiguous()
