"""Small simulated worlds, made with numpy, whose truth the tests know.

Every builder returns a `Dataset`; those with a known optimum return what is needed to compute it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from recsys_meta.dataset import Column, Dataset, Events, Vocabulary
from recsys_meta.schema import FeatureField, Schema
from recsys_meta.types import FIRST


def dataset(name, objective, item, label, *, entity_features=(), item_features=(), time=None):
    """A data set from lists of rows: item[e], label[e] of each entity; features as (name, cells) pairs.

    Cells are numbers [n] or lists of ids [n][any] that start at 0.
    """
    counts = np.array([len(i) for i in item])
    items = max((int(np.max(i)) + 1 for i in item if len(i)), default=0)
    items = max([items, *(len(cells) for _, cells in item_features)])
    events = Events(
        np.concatenate([[0], np.cumsum(counts)]),
        (np.concatenate(item) + FIRST).astype(np.int32),
        np.concatenate(label).astype(np.float32),
        None if time is None else np.concatenate(time).astype(np.int64),
    )
    vocab = {"item": _names("i", items), "entity": _names("e", len(item))}
    sides = []
    for side, features, before in (("entity", entity_features, 0), ("item", item_features, FIRST)):
        table, fields = {}, []
        for feature, cells in features:
            table[feature], size = _column(feature, cells, before)
            numeric = size is None
            fields.append(FeatureField(name=feature, kind="numeric" if numeric else "multi"))
            if not numeric:
                vocab[f"{side}.{feature}"] = _names(feature, size)
        sides.append((table, tuple(fields)))
    schema = Schema(
        name=name,
        objective=objective,
        label="label" if objective != "ranking" else None,
        label_range=(0, 1) if objective == "click" else None,
        time="time" if time is not None else None,
        entity_features=sides[0][1],
        item_features=sides[1][1],
    )
    return Dataset(schema, events, sides[0][0], sides[1][0], Vocabulary(vocab), digest=name)


def _names(prefix, n):
    return pd.Index([f"{prefix}{i}" for i in range(n)], dtype="str")


def _column(name, cells, before):
    """A column with `before` empty rows first, and how many ids it has (None: numbers)."""
    if np.ndim(cells[0]) == 0:
        values = np.concatenate([np.full(before, np.nan), np.asarray(cells, float)]).astype(np.float32)
        return Column(name, values), None
    indptr = np.concatenate([np.zeros(before + 1, int), np.cumsum([len(c) for c in cells])])
    values = np.concatenate([np.asarray(c, int) for c in cells])
    size = int(values.max()) + 1
    return Column(name, (values + FIRST).astype(np.int32), indptr.astype(np.int64), size + FIRST), size


def _tastes(rng, entities, items, dims, groups):
    """Entities' vectors around their group's, items' vectors around their genre's."""
    centre = rng.normal(size=(groups, dims))
    group = rng.integers(0, groups, entities)
    taste = 0.5 * centre[group] + 1.2 * rng.normal(size=(entities, dims))
    genre = rng.integers(0, groups, items)
    vector = centre[genre] / np.sqrt(dims) + rng.normal(size=(items, dims)) / np.sqrt(dims)
    return group, taste, genre, vector


def _features(group, genre, rng):
    """Group and age of entities, genres and length of items; some cells are empty."""
    both = [[g] if rng.random() < 0.7 else [g, (g + 1) % (genre.max() + 1)] for g in genre]
    both[0] = []
    age = rng.normal(40, 10, len(group))
    age[0] = np.nan
    return (
        (("group", [[g] for g in group]), ("age", age)),
        (("genres", both), ("length", rng.normal(100, 20, len(genre)))),
    )


def ranking_world(entities=320, items=80, rows=20, dims=3, seed=0, features=True):
    """Each entity takes `rows` different items, drawn by a softmax of taste . vector + popularity."""
    rng = np.random.default_rng(seed)
    group, taste, genre, vector = _tastes(rng, entities, items, dims, 4)
    logits = taste @ vector.T * 2 + 0.5 * rng.normal(size=items) + rng.gumbel(size=(entities, items))
    item = np.argsort(-logits, 1)[:, :rows]
    entity, other = _features(group, genre, rng) if features else ((), ())
    return dataset(
        "ranking-world",
        "ranking",
        list(rng.permuted(item, axis=1)),
        [np.ones(rows)] * entities,
        entity_features=entity,
        item_features=other,
    )


def rating_world(entities=240, items=60, rows=24, dims=3, seed=0, objective="rating", features=True):
    """label = level + entity's and item's biases + taste . vector + noise; as clicks, whether that is above 0.

    Some items recur within an entity, as a place or an advertisement does.
    """
    rng = np.random.default_rng(seed)
    group, taste, genre, vector = _tastes(rng, entities, items, dims, 4)
    item = rng.integers(0, items, (entities, rows))
    value = np.take_along_axis(taste @ vector.T, item, 1) + rng.normal(size=items)[item] * 0.5
    value = value + rng.normal(size=(entities, 1)) * 0.7 + 0.4 * rng.normal(size=item.shape)
    label = value > 0.3 if objective == "click" else value + 3
    entity, other = _features(group, genre, rng) if features else ((), ())
    return dataset(
        f"{objective}-world",
        objective,
        list(item),
        list(label.astype(float)),
        entity_features=entity,
        item_features=other,
    )


@dataclass(frozen=True)
class LinearGaussian:
    """y = x_i . w_e + noise with w_e ~ N(mean, covariance): the best possible predictor is known exactly."""

    data: Dataset
    x: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    noise: float

    def posterior(self, item, label, mask, query):
        """The Bayes-optimal prediction [T, Q] for padded ids query [T, Q] given a padded support [T, S]."""
        seen = self.x[np.maximum(item - FIRST, 0)] * mask[..., None]
        precision = np.linalg.inv(self.covariance)
        lhs = precision + np.einsum("tsd,tse->tde", seen, seen) / self.noise**2
        rhs = precision @ self.mean + np.einsum("tsd,ts->td", seen, label * mask) / self.noise**2
        w = np.linalg.solve(lhs, rhs[..., None])[..., 0]
        return np.einsum("tqd,td->tq", self.x[np.maximum(query - FIRST, 0)], w)


def linear_gaussian_world(entities=400, items=50, rows=24, dims=3, noise=0.5, seed=0):
    """Items show their x as numeric features; entities have none."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(items, dims))
    root = rng.normal(size=(dims, dims)) / np.sqrt(dims)
    covariance = root @ root.T + 0.3 * np.eye(dims)
    mean = rng.normal(size=dims)
    w = rng.multivariate_normal(mean, covariance, entities)
    item = np.argsort(rng.random((entities, items)), 1)[:, :rows]
    label = np.take_along_axis(w @ x.T, item, 1) + noise * rng.normal(size=item.shape)
    data = dataset(
        "linear-gaussian-world",
        "rating",
        list(item),
        list(label),
        item_features=tuple((f"x{d}", x[:, d]) for d in range(dims)),
    )
    return LinearGaussian(data, x, mean, covariance, noise)


def sinusoid_world(entities=600, points=200, rows=25, seed=0):
    """Regression of the MAML paper: y = a sin(x - p), a in [0.1, 5], p in [0, pi], x in [-5, 5] on a grid."""
    rng = np.random.default_rng(seed)
    x = np.linspace(-5, 5, points)
    a, p = rng.uniform(0.1, 5, (entities, 1)), rng.uniform(0, np.pi, (entities, 1))
    item = np.argsort(rng.random((entities, points)), 1)[:, :rows]
    return dataset("sinusoids", "rating", list(item), list(a * np.sin(x[item] - p)), item_features=(("x", x),))
