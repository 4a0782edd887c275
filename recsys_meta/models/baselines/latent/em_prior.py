"""The prior of a linear model's weights over entities, by expectation and maximisation; and rating factors."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.types import Params
from recsys_meta.models.baselines.interaction_matrix import TrainingRows

ROUNDS = 8
ENTITIES = 2_500
"""Entities that the prior is learned from; of more, so many are drawn. Their statistics take D^2 floats each."""


def learn_prior(rows: TrainingRows, label: Tensor, features: Tensor, seed: int = 0) -> Params:
    """Mean [D], precision [D, D] and noise variance [] of label [R] = w . features[item] + noise, w ~ N.

    label [R] belongs to the rows; features [C, D]. Entities without rows say nothing and leave.
    """
    squares, cross, energy, count = _statistics(rows, label, features, seed)
    dims = features.shape[1]
    mean = torch.zeros(dims, dtype=torch.float64)
    covariance = 0.1 * torch.eye(dims, dtype=torch.float64)
    total = float(count.sum())
    variance = float(energy.sum()) / max(total, 1) or 1.0
    for _ in range(ROUNDS if len(count) else 0):
        precision = torch.linalg.inv(covariance)
        spread = torch.linalg.inv(precision + squares / variance)
        weight = (spread @ (precision @ mean + cross / variance).unsqueeze(2)).squeeze(2)
        mean = weight.mean(0)
        gap = weight - mean
        covariance = spread.mean(0) + gap.T @ gap / len(gap)
        covariance.diagonal().add_(1e-6)
        fitted = (squares * (spread + weight.unsqueeze(2) * weight.unsqueeze(1))).sum()
        error = energy.sum() - 2 * (weight * cross).sum() + fitted
        variance = max(float(error) / total, 1e-4)
    return {
        "mean": mean.float(),
        "precision": torch.linalg.inv(covariance).float(),
        "variance": torch.tensor(variance),
    }


def _statistics(
    rows: TrainingRows, label: Tensor, features: Tensor, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """F'F [U, D, D], F'y [U, D], y'y [U] and rows [U] of entities with rows, float64."""
    counts = np.bincount(rows.task, minlength=rows.entities)
    chosen = np.flatnonzero(counts)
    if len(chosen) > ENTITIES:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, ENTITIES, replace=False))
    shape = (rows.entities, rows.catalogue)
    ones = np.ones(len(rows.item), np.float32)
    met = sp.csr_matrix((ones, (rows.task, rows.item)), shape=shape)[chosen]
    given = sp.csr_matrix((label.numpy(), (rows.task, rows.item)), shape=shape)[chosen]
    energy = np.bincount(rows.task, label.double().numpy() ** 2, minlength=rows.entities)[chosen]
    return (
        segment_outer_sums(met, features).double(),
        torch.from_numpy(given @ features.numpy()).double(),
        torch.from_numpy(energy),
        torch.from_numpy(counts[chosen].astype(np.float64)),
    )


def segment_outer_sums(matrix: sp.csr_matrix, vectors: Tensor) -> Tensor:
    """For each row of matrix [N, M] the weighted sum of outer products of vectors [M, D], [N, D, D]."""
    dims = vectors.shape[1]
    upper = np.triu_indices(dims)
    table = vectors.numpy()
    products = torch.from_numpy(matrix @ (table[:, upper[0]] * table[:, upper[1]]))
    full = torch.zeros(matrix.shape[0], dims, dims)
    full[:, upper[0], upper[1]] = products
    full[:, upper[1], upper[0]] = products
    return full


def residual_factors(
    rows: TrainingRows, label: Tensor, dims: int, seed: int, ridge: float = 8.0, sweeps: int = 10
) -> Tensor:
    """Item factors [C, dims] of label [R] by alternating ridge regressions, scaled to unit variance of the
    entities' side."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.randn(rows.catalogue, dims, generator=generator) * 0.3
    if dims == 0 or not len(rows.item):
        return items * 0
    shape = (rows.entities, rows.catalogue)
    met = sp.csr_matrix((np.ones(len(rows.item), np.float32), (rows.task, rows.item)), shape=shape)
    given = sp.csr_matrix((label.numpy(), (rows.task, rows.item)), shape=shape)
    met_by, given_by = met.T.tocsr(), given.T.tocsr()
    for _ in range(sweeps):
        users = _ridge(met, given, items, ridge)
        items = _ridge(met_by, given_by, users, ridge)
    return items * users.std(0, correction=0).clamp(min=1e-6)


def _ridge(met: sp.csr_matrix, given: sp.csr_matrix, vectors: Tensor, ridge: float) -> Tensor:
    matrix = segment_outer_sums(met, vectors)
    matrix.diagonal(dim1=1, dim2=2).add_(ridge)
    right = torch.from_numpy(given @ vectors.numpy())
    return torch.cholesky_solve(right.unsqueeze(2), torch.linalg.cholesky(matrix)).squeeze(2)
