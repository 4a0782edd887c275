"""Weights of a ranking ensemble by bagged greedy selection (Caruana, Niculescu-Mizil, Crew and Ksikes 2004).

From an empty sum, the form that raises nDCG@50 on meta-validation most is added, again if need be. Each bag sees a
bootstrap sample of the entities, and the weights are the mean over bags: no member is trusted for luck on few entities.
Every bag may choose from all members, since bags without the strongest one would only dilute it. Neighbouring numbers
of shots count as well, so that weights change little between them.
Members are then removed as long as the loss is small against its standard error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.evaluation.ensemble.pruning import PRUNING_ERRORS, is_clear_loss, mean_loss
from recsys_meta.models.functional.candidate_scores import CandidateScores
from recsys_meta.models.functional.score_forms import RANKING_FORMS

BAGS = 8
MOST_ADDITIONS = 24
"""Forms that a bag adds up, at most."""
NEIGHBOUR_WEIGHT = 1.0
"""Weight of the entities at the next lower and the next higher number of shots."""
PATIENCE = 5
"""Additions without a gain after which a bag ends."""

_FormCounts = tuple[int, ...]


@dataclass
class _SumValues:
    """nDCG@50 of sums of forms at one number of shots; sums that several bags arrive at are evaluated once."""

    scores: CandidateScores
    _cache: dict[_FormCounts, FloatArray] = field(default_factory=dict)

    def of(self, counts: _FormCounts) -> FloatArray:
        """Values [V] of the sum in which form f occurs counts[f] times."""
        if counts not in self._cache:
            weights = torch.tensor(counts, dtype=torch.float32)
            self._cache[counts] = self.scores.ndcg(weights).numpy()
        return self._cache[counts]


def select_weights(scores: Mapping[int, CandidateScores], members: int, seed: int) -> Tensor:
    """Choose weights [K, F] of `members` members that sum to 1, for the K numbers of shots of `scores` in ascending
    order. Deterministic in `seed`."""
    shots = sorted(scores)
    values = [_SumValues(scores[k]) for k in shots]
    entities = np.unique(np.concatenate([scores[k].entity for k in shots]))
    forms = list(range(RANKING_FORMS * members))
    generator = np.random.default_rng(seed)
    weights = np.zeros((len(shots), RANKING_FORMS * members))
    for _ in range(BAGS):
        drawn = np.bincount(generator.integers(len(entities), size=len(entities)), minlength=len(entities))
        for i in range(len(shots)):
            weights[i] += _greedy(_criterion(values, i, shots, entities, drawn), forms, weights.shape[1])
    return torch.from_numpy(weights / weights.sum(1, keepdims=True)).float()


@dataclass(frozen=True)
class _BagCriterion:
    """Mean nDCG@50 of a bag: values at several numbers of shots, each with a weight [V] for every entity."""

    values: Sequence[_SumValues]
    weights: Sequence[FloatArray]

    def __call__(self, counts: _FormCounts) -> float:
        total = sum(float(v.of(counts) @ w) for v, w in zip(self.values, self.weights, strict=True))
        return total / max(sum(float(w.sum()) for w in self.weights), 1e-12)


def _criterion(
    values: Sequence[_SumValues], i: int, shots: Sequence[int], entities: IntArray, drawn: IntArray
) -> _BagCriterion:
    """Criterion at the i-th number of shots. An empty support has no neighbours: nothing is known there."""
    neighbours = [j for j in (i - 1, i + 1) if 0 <= j < len(shots) and shots[i] > 0 and shots[j] > 0]
    parts = [i, *neighbours]
    weights = []
    for j in parts:
        weight = drawn[np.searchsorted(entities, values[j].scores.entity)].astype(np.float64)
        total = weight.sum()
        weights.append(weight / (total or 1.0) * (1.0 if j == i else NEIGHBOUR_WEIGHT))
    return _BagCriterion([values[j] for j in parts], weights)


def _greedy(criterion: _BagCriterion, forms: Sequence[int], width: int) -> FloatArray:
    """Shares [F] of the best sum on the way of greedy additions."""
    counts = [0] * width
    best, best_value, without_gain = counts, -np.inf, 0
    for _ in range(MOST_ADDITIONS):
        candidates = [_added(counts, f) for f in forms]
        gains = [criterion(tuple(c)) for c in candidates]
        counts = candidates[int(np.argmax(gains))]
        if max(gains) > best_value + 1e-7:
            best, best_value, without_gain = counts, max(gains), 0
        else:
            without_gain += 1
            if without_gain >= PATIENCE:
                break
    return np.array(best, np.float64) / sum(best)


def _added(counts: Sequence[int], form: int) -> list[int]:
    return [c + (f == form) for f, c in enumerate(counts)]


def prune_members(scores: Mapping[int, CandidateScores], weights: Tensor, members: int) -> list[int]:
    """Remove members, always the one that is missed least, while the loss of nDCG@50 against all of them is within
    PRUNING_ERRORS standard errors over entities in the mean over numbers of shots, and PRUNING_GUARD at each. Returns
    those that stay, ascending."""
    shots = sorted(scores)
    full = [scores[k].ndcg(w).numpy() for k, w in zip(shots, weights, strict=True)]
    entities = [scores[k].entity for k in shots]
    remaining = [m for m in range(members) if weights[:, [m, members + m]].any()]
    while len(remaining) > 1:
        options = []
        for member in remaining:
            rest = [m for m in remaining if m != member]
            reduced = restrict_weights(weights, rest, members)
            losses = [f - scores[k].ndcg(w).numpy() for f, k, w in zip(full, shots, reduced, strict=True)]
            options.append((mean_loss(losses, entities), losses, rest))
        (loss, error), losses, rest = min(options, key=lambda option: option[0][0])
        if loss > PRUNING_ERRORS * error or any(map(is_clear_loss, losses, entities)):
            break
        remaining = rest
    return remaining


def restrict_weights(weights: Tensor, remaining: Sequence[int], members: int) -> Tensor:
    """Weights [K, F] of the remaining members alone, scaled to sum to 1; equal ones where all of theirs were 0."""
    mask = torch.zeros(weights.shape[1])
    mask[[f for m in remaining for f in (m, members + m)]] = 1
    rest = weights * mask
    total = rest.sum(1, keepdim=True)
    return torch.where(total > 0, rest / total.clamp(min=1e-12), mask / mask.sum())
