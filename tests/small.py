"""Hand-made data sets and predictors of a few lines, for the tests of the core."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from recsys_meta.dataset import Dataset
from recsys_meta.episodes import EventIndex
from recsys_meta.learners.maml import Maml, MamlConfig
from recsys_meta.predictor import Config
from recsys_meta.recipe import Recipe, recipe_of
from tests.worlds import dataset


def data_of(item, label=None, time=None, *, objective="ranking", **schema: Any) -> Dataset:
    """A data set from lists of items (from 0), one list an entity; the entity's number is its feature 'row'."""
    label = [[1.0] * len(row) for row in item] if label is None else label
    made = dataset(
        "small",
        objective,
        [np.asarray(row, int) for row in item],
        [np.asarray(row, float) for row in label],
        entity_features=(("row", np.arange(len(item), dtype=float)),),
        time=None if time is None else [np.asarray(row, int) for row in time],
    )
    return replace(made, schema=made.schema.model_copy(update=schema)) if schema else made


def index_of(counts, seed=0, items=30) -> EventIndex:
    """An index of random rows with so many rows an entity; labels number the rows, so each row is known again."""
    rng = np.random.default_rng(seed)
    total = int(sum(counts))
    indptr = torch.from_numpy(np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]))
    item = torch.from_numpy(rng.integers(2, items + 2, total).astype(np.int32))
    return EventIndex(indptr, item, torch.arange(total, dtype=torch.float32))


@dataclass(frozen=True)
class ByRow:
    """Scores from a table [E, C] by the entity's feature 'row': an oracle, or chance, or anything."""

    table: torch.Tensor
    name: str = "by-row"
    config: Config = field(default_factory=Config)

    def body(self, params):
        return params

    def adapt(self, body, support):
        return {"row": support.features["row"], "size": support.rows.counts}

    def rank(self, body, state):
        return self.table[state["row"].long()]

    def score(self, body, state, rows):
        return self.rank(body, state).gather(1, rows.item)


def tiny(**config: Any) -> Maml:
    """A learner that trains in milliseconds."""
    return Maml(MamlConfig(**{"dims": 4, **config}))


def recipe(epochs=3, tasks=8, max_shots=4, curriculum="uniform", **train: Any) -> Recipe:
    return recipe_of(
        {
            "name": "tiny",
            "learner": "maml",
            "config": {"dims": 4},
            "episodes": {"max_shots": max_shots},
            "train": {"epochs": epochs, "tasks": tasks, "rate": 0.02, **train},
            "curriculum": {"name": curriculum},
        }
    )


def same(a, b) -> bool:
    """Whether two dictionaries of tensors are equal bit for bit, NaN included."""

    def content(t):
        return t.dtype, t.shape, t.detach().numpy().tobytes()

    return a.keys() == b.keys() and all(content(a[k]) == content(b[k]) for k in a)
