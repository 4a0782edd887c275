"""Gaussian prior of a linear model's weights over entities, by EM; item factors of residuals, by ALS."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.types import Params
from recsys_meta.models.baselines.interaction_matrix import TrainingRows

EM_ROUNDS = 8
"""EM iterations."""
MAX_ENTITIES = 2_500
"""Most entities that the prior is learned from, a random sample of them all: each takes D^2 floats."""


def learn_prior(rows: TrainingRows, label: Tensor, features: Tensor, seed: int = 0) -> Params:
    """Fit the prior of label [R] = w . features[item] + noise with w ~ N(mean, precision^-1) for each entity.

    Returns "mean" [D], "precision" [D, D] and the noise "variance" []. features [C, D]; label belongs to `rows`.
    Entities without rows are left out.
    """
    squares, cross, energy, count = _sufficient_statistics(rows, label, features, seed)
    dims = features.shape[1]
    mean = torch.zeros(dims, dtype=torch.float64)
    covariance = 0.1 * torch.eye(dims, dtype=torch.float64)
    total = float(count.sum())
    variance = float(energy.sum()) / max(total, 1) or 1.0
    for _ in range(EM_ROUNDS if len(count) else 0):
        precision = torch.linalg.inv(covariance)
        posterior = torch.linalg.inv(precision + squares / variance)
        weight = (posterior @ (precision @ mean + cross / variance).unsqueeze(2)).squeeze(2)
        mean = weight.mean(0)
        deviation = weight - mean
        covariance = posterior.mean(0) + deviation.T @ deviation / len(deviation)
        covariance.diagonal().add_(1e-6)
        explained_energy = (squares * (posterior + weight.unsqueeze(2) * weight.unsqueeze(1))).sum()
        error = energy.sum() - 2 * (weight * cross).sum() + explained_energy
        variance = max(float(error) / total, 1e-4)
    return {
        "mean": mean.float(),
        "precision": torch.linalg.inv(covariance).float(),
        "variance": torch.tensor(variance),
    }


def _sufficient_statistics(
    rows: TrainingRows, label: Tensor, features: Tensor, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return F'F [U, D, D], F'y [U, D], y'y [U] and the number of rows [U] of entities with rows, float64."""
    counts = np.bincount(rows.task, minlength=rows.entities)
    entities = np.flatnonzero(counts)
    if len(entities) > MAX_ENTITIES:
        entities = np.sort(np.random.default_rng(seed).choice(entities, MAX_ENTITIES, replace=False))
    shape = (rows.entities, rows.catalogue)
    ones = np.ones(len(rows.item), np.float32)
    row_counts = sp.csr_matrix((ones, (rows.task, rows.item)), shape=shape)[entities]
    label_sums = sp.csr_matrix((label.numpy(), (rows.task, rows.item)), shape=shape)[entities]
    energy = np.bincount(rows.task, label.double().numpy() ** 2, minlength=rows.entities)[entities]
    return (
        segment_outer_sums(row_counts, features).double(),
        torch.from_numpy(label_sums @ features.numpy()).double(),
        torch.from_numpy(energy),
        torch.from_numpy(counts[entities].astype(np.float64)),
    )


def segment_outer_sums(matrix: sp.csr_matrix, vectors: Tensor) -> Tensor:
    """Sum the outer products of vectors [M, D] with the weights of each row of matrix [N, M], [N, D, D]."""
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
    """Fit item factors [C, dims] of label [R] by ALS; their scale makes the variance of entity factors 1."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.randn(rows.catalogue, dims, generator=generator) * 0.3
    if dims == 0 or not len(rows.item):
        return items * 0
    shape = (rows.entities, rows.catalogue)
    row_counts = sp.csr_matrix((np.ones(len(rows.item), np.float32), (rows.task, rows.item)), shape=shape)
    label_sums = sp.csr_matrix((label.numpy(), (rows.task, rows.item)), shape=shape)
    row_counts_by_item, label_sums_by_item = row_counts.T.tocsr(), label_sums.T.tocsr()
    for _ in range(sweeps):
        users = _solve_ridge(row_counts, label_sums, items, ridge)
        items = _solve_ridge(row_counts_by_item, label_sums_by_item, users, ridge)
    return items * users.std(0, correction=0).clamp(min=1e-6)


def _solve_ridge(row_counts: sp.csr_matrix, label_sums: sp.csr_matrix, vectors: Tensor, ridge: float) -> Tensor:
    """Solve one side of ALS, [N, D], from row_counts and label_sums [N, M] of the pairs and vectors [M, D]."""
    matrix = segment_outer_sums(row_counts, vectors)
    matrix.diagonal(dim1=1, dim2=2).add_(ridge)
    target = torch.from_numpy(label_sums @ vectors.numpy())
    return torch.cholesky_solve(target.unsqueeze(2), torch.linalg.cholesky(matrix)).squeeze(2)
