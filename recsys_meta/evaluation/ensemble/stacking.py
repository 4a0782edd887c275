"""Weights of an ensemble of clicks or ratings: stacking with weights that are not negative (Breiman 1996).

At each number of shots the sum's log-loss, or squared error, over meta-validation is a convex function of weights and
bias and has one minimum. A ridge toward equal weights, which many rows outweigh and few do not, keeps luck out.
Neighbouring numbers of shots count as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
from scipy.special import expit

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.evaluation.ensemble.pruning import PRUNING_ERRORS, is_clear_loss, mean_loss

NEIGHBOUR_WEIGHT = 0.4
"""Weight of the rows at the next lower and the next higher number of shots."""
RIDGE_ENTITIES = 1.0
"""Strength of the ridge: the squared distance from equal weights counts as the loss of so many entities does."""


@dataclass(frozen=True)
class RowScores:
    """Scores of M members for R query rows at one number of shots: score [R, M], label [R], entity [R] int64.

    weight [R]: that of the row in the metric: 1 for clicks, 1 / rows of its entity for ratings.
    """

    score: FloatArray
    label: FloatArray
    entity: IntArray
    weight: FloatArray
    is_click: bool

    def sample(self, count: int, seed: int) -> RowScores:
        """Sample at most `count` of the rows, the same ones for a seed."""
        if len(self.label) <= count:
            return self
        rows = np.sort(np.random.default_rng(seed).choice(len(self.label), count, replace=False))
        return RowScores(self.score[rows], self.label[rows], self.entity[rows], self.weight[rows], self.is_click)

    def losses(self, prediction: FloatArray) -> FloatArray:
        """Loss [R] of predictions [R]: log-loss of log-odds, or squared error."""
        if self.is_click:
            loss: FloatArray = np.logaddexp(0.0, prediction) - self.label * prediction
            return loss
        return np.square(prediction - self.label)


@dataclass(frozen=True)
class StackingWeights:
    """Weights [K, M] and biases [K] at K numbers of shots."""

    weights: FloatArray
    bias: FloatArray


def fit_stacking(
    scores: Mapping[int, RowScores], allowed: Sequence[int] | None = None, start: StackingWeights | None = None
) -> StackingWeights:
    """Fit weights and bias at each number of shots, in ascending order; `allowed` restricts the members. The minimum is
    looked for from `start`, by default from equal weights."""
    shots = sorted(scores)
    members = scores[shots[0]].score.shape[1]
    allowed = list(range(members)) if allowed is None else list(allowed)
    weights, bias = np.zeros((len(shots), members)), np.zeros(len(shots))
    for i in range(len(shots)):
        near = [j for j in (i - 1, i + 1) if 0 <= j < len(shots) and shots[i] > 0 and shots[j] > 0]
        parts = [(scores[shots[j]], 1.0 if j == i else NEIGHBOUR_WEIGHT) for j in [i, *near]]
        near_solution = None if start is None else np.append(start.weights[i, allowed], start.bias[i])
        solution = _minimise(parts, allowed, near_solution)
        weights[i, allowed], bias[i] = solution[:-1], solution[-1]
    return StackingWeights(weights, bias)


def _minimise(parts: Sequence[tuple[RowScores, float]], allowed: Sequence[int], start: FloatArray | None) -> FloatArray:
    """Weights of the allowed members and, last, the bias, with the least mean loss and ridge."""
    equal = 1.0 / len(allowed)
    design = np.concatenate([np.column_stack([p.score[:, allowed], np.ones(len(p.label))]) for p, _ in parts])
    label = np.concatenate([p.label for p, _ in parts])
    row_weight = np.concatenate([share * p.weight / p.weight.sum() for p, share in parts])
    row_weight /= row_weight.sum()
    entities = len(np.unique(parts[0][0].entity))
    spread = max(float(row_weight @ np.square(design[:, :-1] - (row_weight @ design[:, :-1])).mean(1)), 1e-12)
    ridge = RIDGE_ENTITIES / max(entities, 1) * spread * (0.25 if parts[0][0].is_click else 1.0)

    def objective(solution: FloatArray) -> tuple[float, FloatArray]:
        prediction = design @ solution
        if parts[0][0].is_click:
            loss = row_weight @ (np.logaddexp(0.0, prediction) - label * prediction)
            slope = design.T @ (row_weight * (expit(prediction) - label))
        else:
            error = prediction - label
            loss, slope = row_weight @ np.square(error), design.T @ (2 * row_weight * error)
        distance = solution[:-1] - equal
        slope[:-1] += 2 * ridge * distance
        return float(loss + ridge * distance @ distance), slope

    if start is None:
        start = np.append(np.full(len(allowed), equal), 0.0)
    bounds = [(0.0, None)] * len(allowed) + [(None, None)]
    result = scipy.optimize.minimize(objective, start, jac=True, bounds=bounds, method="L-BFGS-B")
    solution: FloatArray = result.x
    solution[:-1][solution[:-1] < 1e-3] = 0.0
    return solution


def prune_stacking(scores: Mapping[int, RowScores], fitted: StackingWeights) -> list[int]:
    """Remove members, always the one that is missed least once the others are fitted anew, while the loss against all
    of them is within PRUNING_ERRORS standard errors over entities in the mean over numbers of shots, and PRUNING_GUARD
    at each. Returns those that stay, ascending."""
    shots = sorted(scores)
    full = _entity_losses(scores, fitted)
    entities = [np.unique(scores[k].entity) for k in shots]
    remaining, current = np.flatnonzero(fitted.weights.any(0)).tolist(), fitted
    while len(remaining) > 1:
        options = []
        for member in remaining:
            rest = [m for m in remaining if m != member]
            refit = fit_stacking(scores, rest, current)
            losses = [part - before for part, before in zip(_entity_losses(scores, refit), full, strict=True)]
            options.append((mean_loss(losses, entities), losses, rest, refit))
        (loss, error), losses, rest, refit = min(options, key=lambda option: option[0][0])
        if loss > PRUNING_ERRORS * error or any(map(is_clear_loss, losses, entities)):
            break
        remaining, current = rest, refit
    return remaining


def _entity_losses(scores: Mapping[int, RowScores], fitted: StackingWeights) -> list[FloatArray]:
    """Mean loss of each entity's rows [V] at each number of shots, entities in ascending order."""
    losses: list[FloatArray] = []
    for k, weights, bias in zip(sorted(scores), fitted.weights, fitted.bias, strict=True):
        loss = scores[k].losses(scores[k].score @ weights + bias)
        _, position = np.unique(scores[k].entity, return_inverse=True)
        losses.append(np.bincount(position, loss) / np.bincount(position))
    return losses
