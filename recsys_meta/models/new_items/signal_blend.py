"""A blend of all signals about new items, whose form and weights are those that rank best on validation items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.models.new_items.content_form import ContentForm
from recsys_meta.models.new_items.item_task import ItemTask, Scores, standardize
from recsys_meta.models.new_items.signals import (
    content_columns,
    first_user_vectors,
    kernel_of,
    profile_scores,
    regressed_factors,
    shared_users,
    smoothed,
)

ROUNDS = 10
"""Signals that a greedy selection adds, at most, each as often as it helps."""

BAGS = 3
"""Selections, each on a random half of the users, whose weights are averaged."""

LEAST_GAIN = 1e-4

Quality = Callable[[FloatArray, IntArray], float]
"""Quality of scores [u, N] for some of u users (their positions)."""


RARITIES = (1.0, 1.5, 2.0, 3.0)

FORMS = (
    *(ContentForm(r, n) for r in RARITIES for n in (0.8, 1.0)),
    *(ContentForm(r, 0.8, c) for r in RARITIES for c in (1.0, 4.0)),
)
"""Forms that are tried."""


def content_score(task: ItemTask, form: ContentForm) -> Scores:
    """Scores by similarity in all features, added up over the history of a user."""
    return profile_scores(task, task.content.names, 2, form)


def blend_signals(task: ItemTask, form: ContentForm) -> dict[str, Scores]:
    """Every signal that a blend weighs, by name."""
    names = task.content.names
    signals: dict[str, Scores] = {}
    for label, group in _feature_groups(names).items():
        signals[label] = profile_scores(task, group, 2, form)
        if group == names:
            near = kernel_of(task, group, 2.0, 2, form)
            signals["near neighbours"] = task.by_history(near)
            signals["smoothed"] = smoothed(task, near, 0.1)
    if names:
        vectors = regressed_factors(task, content_columns(task, names), 1.0)
        signals["regression"] = task.by_factors(task.space.users, vectors)
        signals["popularity"] = task.by_item(_expected_popularity(task, form))
    if task.shots.any():
        signals["shared users"] = task.by_history(shared_users(task))
        shrunk = first_user_vectors(task) * task.space.shrink(0.3).astype(np.float32)
        signals["first users"] = task.by_factors(task.space.users, shrunk)
    return signals


def _feature_groups(names: Sequence[str]) -> dict[str, Sequence[str]]:
    groups: dict[str, Sequence[str]] = {name: [name] for name in names}
    return groups if len(names) == 1 else {"all features": names, **groups} if names else {}


def _expected_popularity(task: ItemTask, form: ContentForm) -> FloatArray:
    """Mean log count [N] of the known items, weighted by similarity."""
    kernel = kernel_of(task, task.content.names, 2.0, 2, form)
    level = np.log1p(np.bincount(task.history.indices, minlength=len(task.known)))
    weight = np.asarray(kernel.sum(0)).ravel()
    mean: FloatArray = (kernel.T @ level + 1e-3 * level.mean()) / (weight + 1e-3)
    return mean


def stack_signals(signals: Mapping[str, Scores], users: IntArray) -> FloatArray:
    """Standardized signals [S, u, N] of some users."""
    return np.stack([standardize(scores(users)) for scores in signals.values()])


def select_weights(signals: FloatArray, quality: Quality) -> FloatArray:
    """Weights [S] of signals [S, u, N] by bagged greedy selection (Caruana et al. 2004): the signal that helps most is
    added again and again, on random halves of the users."""
    rng, users = np.random.default_rng(0), signals.shape[1]
    bags = [np.sort(rng.choice(users, max(1, users // 2), replace=False)) for _ in range(BAGS)]
    weights: FloatArray = np.mean([_greedy(signals[:, bag], partial(_on_bag, quality, bag)) for bag in bags], 0)
    return weights


def _on_bag(quality: Quality, bag: IntArray, scores: FloatArray) -> float:
    return quality(scores, bag)


def _greedy(signals: FloatArray, quality: Callable[[FloatArray], float]) -> FloatArray:
    """Counts of additions as shares, of the best sum there was: a strong signal is added more than once before another
    one, which would be too much beside it, helps."""
    counts, total, best = np.zeros(len(signals)), np.zeros_like(signals[0]), -np.inf
    weights: FloatArray = counts
    for _ in range(ROUNDS):
        values = [quality(total + one) for one in signals]
        first = int(np.argmax(values))
        counts[first] += 1
        total = total + signals[first]
        if values[first] > best + LEAST_GAIN:
            best, weights = values[first], counts / counts.sum()
    return weights


def blended(signals: Mapping[str, Scores], weights: FloatArray) -> Scores:
    """Weighted sum of standardized signals; those of weight near 0 cost nothing."""
    used = [(scores, float(w)) for scores, w in zip(signals.values(), weights, strict=True) if w > 1e-3 * weights.max()]
    return lambda users: sum((w * standardize(scores(users)) for scores, w in used[1:]), _first(used, users))


def _first(used: Sequence[tuple[Scores, float]], users: IntArray) -> FloatArray:
    scores, weight = used[0]
    result: FloatArray = weight * standardize(scores(users))
    return result
