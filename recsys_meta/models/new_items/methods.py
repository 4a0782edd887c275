"""Methods for new items by name: baselines, each with the settings that are tried, and the blend of all signals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from recsys_meta.models.new_items.dropout_net import dropout_net
from recsys_meta.models.new_items.item_task import ItemTask, Scores, standardize
from recsys_meta.models.new_items.signals import (
    add_standardized,
    aligned,
    content_columns,
    first_user_vectors,
    kernel_of,
    nearest_entries,
    profile_scores,
    regressed_factors,
    shared_users,
)

ALL = "all"
"""The setting of a feature group that stands for all features."""


@dataclass(frozen=True)
class ItemMethod:
    """A method: `build` makes scores for a task with one of the settings that `grid` lists for it. `first`: weights of
    the first interactions that are tried where there are any, all else being as chosen without them."""

    build: Callable[..., Scores]
    grid: Callable[[ItemTask], Sequence[Mapping[str, Any]]]
    first: Sequence[float] = ()
    needs: Literal["nothing", "content", "support"] = "content"


def settings(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """All combinations of values."""
    return [dict(zip(values, row, strict=True)) for row in product(*values.values())]


def _features(task: ItemTask) -> list[str]:
    names = list(task.content.names)
    return [ALL, *names] if len(names) > 1 else [ALL]


def _names(task: ItemTask, features: str) -> Sequence[str]:
    return task.content.names if features == ALL else [features]


def random_scores(task: ItemTask) -> Scores:
    """Chance: other scores for every user."""
    count = len(task.new)
    return lambda users: np.stack([np.random.default_rng(u).random(count, np.float32) for u in users.tolist()])


def popularity(task: ItemTask) -> Scores:
    """Number of first interactions."""
    return task.by_item(task.shots.astype(np.float32))


def value_count(task: ItemTask) -> Scores:
    """Number of values of all features."""
    parts = [np.asarray((task.content.fields[n][task.new] > 0).sum(1)).ravel() for n in task.content.names]
    return task.by_item(np.sum(parts, 0).astype(np.float32))


def content_profile(task: ItemTask, *, features: str, least: int, first: float = 0.0) -> Scores:
    """Cosine of an item's tf-idf to the mean of what the user met, up to a factor of the user."""
    return _with_users(task, profile_scores(task, _names(task, features), least), first)


def content_neighbours(task: ItemTask, *, features: str, power: float, most: int, first: float = 0.0) -> Scores:
    """ItemKNN on content: the nearest known items of each new one, by cosine to a power."""
    kernel = nearest_entries(kernel_of(task, _names(task, features), power), most)
    return _with_users(task, task.by_history(kernel), first)


def _with_users(task: ItemTask, scores: Scores, weight: float) -> Scores:
    """Add ItemKNN on the first interactions to scores, both standardized."""
    if not weight:
        return scores
    knn = task.by_history(shared_users(task))
    return lambda users: standardize(scores(users)) + weight * standardize(knn(users))


def first_neighbours(task: ItemTask) -> Scores:
    """ItemKNN: cosine of the first users of a new item and those of the known items that a user met."""
    return task.by_history(shared_users(task))


def ridge(task: ItemTask, *, penalty: float, features: str, first: float = 0.0) -> Scores:
    """Ridge regression from content to the vectors of known items, and folding in the first users."""
    vectors = regressed_factors(task, content_columns(task, _names(task, features)), penalty)
    return task.by_factors(task.space.users, vectors + np.float32(first) * first_user_vectors(task))


def metadata_alignment(task: ItemTask, *, penalty: float, power: float, first: float = 0.0) -> Scores:
    """Closed form of the objective of MARec (Monteil et al. 2024, arXiv 2404.13298) with EASE as the backbone, for
    columns of the click matrix without clicks, or with the first ones; see `aligned`."""
    return aligned(task, power, penalty, first)


def signal_sum(task: ItemTask, *, feature: str, power: float, least: int) -> Scores:
    """Sum of z-scores of content profile and content neighbours of one feature, profiles of the other features, and
    ItemKNN on the first interactions where there are any."""
    names = task.content.names
    near = task.by_history(kernel_of(task, [feature], power, least))
    parts = [profile_scores(task, [feature], least), near]
    parts += [profile_scores(task, [name]) for name in names if name != feature]
    return add_standardized([*parts, first_neighbours(task)] if task.shots.any() else parts)


ITEM_BASELINES: Mapping[str, ItemMethod] = {
    "random": ItemMethod(random_scores, lambda t: [{}], needs="nothing"),
    "popularity": ItemMethod(popularity, lambda t: [{}], needs="support"),
    "value-count": ItemMethod(value_count, lambda t: [{}]),
    "itemknn": ItemMethod(first_neighbours, lambda t: [{}], needs="support"),
    "content-profile": ItemMethod(
        content_profile, lambda t: settings(features=_features(t), least=[1, 3]), (0.1, 0.3, 1.0, 3.0)
    ),
    "content-itemknn": ItemMethod(
        content_neighbours,
        lambda t: settings(features=_features(t), power=[1.5, 3.0], most=[50, 500]),
        (0.1, 0.3, 1.0, 3.0),
    ),
    "ridge": ItemMethod(
        ridge, lambda t: settings(penalty=[0.1, 1.0, 10.0], features=_features(t)), (0.0, 0.3, 1.0, 3.0, 10.0, 30.0)
    ),
    "marec": ItemMethod(
        metadata_alignment, lambda t: settings(penalty=[0.3, 3.0, 30.0], power=[1.0, 2.0]), (0.0, 0.1, 1.0, 10.0, 100.0)
    ),
    "dropoutnet": ItemMethod(dropout_net, lambda t: settings(dropout=[0.5, 0.9])),
    "signal-sum": ItemMethod(
        signal_sum, lambda t: settings(feature=list(t.content.names), power=[1.5, 2.0], least=[1, 3])
    ),
}
"""Baselines for new items by name."""
