"""Simulated data sets and supports for the tests of the baselines."""

import numpy as np
import torch

from recsys_meta.core.feature_encoding import lookup_rows
from recsys_meta.core.types import FIRST, Interactions, Support
from recsys_meta.models.baselines import BASELINES
from tests.fixtures.simulated_datasets import dataset

SMALL_SETTINGS = {
    "ials": {"dims": 4},
    "ials-prior": {"dims": 4},
    "blr": {"dims": 4, "factors": 2},
    "sasrec": {"dims": 8, "blocks": 1, "negatives": 16, "length": 8, "steps": 12, "batch_rows": 64},
    "blr-content": {"dims": 2},
    "machines": {"dims": 2},
}
"""Settings for data sets of a few dozen items."""


def simulated_dataset(objective="ranking", entities=60, items=24, seed=0, features=True):
    """Simulate two groups of entities, each of which prefers one genre of items; popularity falls with the id."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 2, entities)
    genre = rng.integers(0, 2, items)
    weight = (0.9 ** np.arange(items))[None, :] * np.where(genre[None, :] == group[:, None], 4.0, 0.5)
    item = [
        rng.choice(items, size=int(rng.integers(1, min(12, items) + 1)), replace=False, p=w / w.sum()) for w in weight
    ]
    agree = [(genre[i] == g).astype(float) for i, g in zip(item, group, strict=True)]
    if objective == "rating":
        label = [np.clip(np.round(2 + 2 * a + rng.normal(size=len(a))), 1, 5) for a in agree]
    elif objective == "click":
        label = [(rng.random(len(a)) < 0.2 + 0.6 * a).astype(float) for a in agree]
    else:
        label = [np.ones(len(a)) for a in agree]
    entity_features = [("group", [[int(g)] for g in group]), ("age", rng.normal(size=entities))]
    item_features = [("genre", [[int(g)] for g in genre]), ("length", rng.normal(size=items))]
    return dataset(
        f"world-{objective}",
        objective,
        item,
        label,
        entity_features=entity_features if features else (),
        item_features=item_features if features else (),
    )


def make_small_baseline(name, objective):
    return BASELINES[name](objective=objective, **SMALL_SETTINGS.get(name, {}))


def baseline_objectives():
    """List every baseline with every objective that it supports, but those of choices, which test_choice.py tests."""
    every = [(name, objective) for name, kind in BASELINES.items() for objective in sorted(kind.objectives)]
    return [(name, objective) for name, objective in every if objective != "choice"]


def rows(items, labels=None, width=None):
    """Pad lists of item ids to rows [T, width]."""
    width = max([len(i) for i in items] + [width or 0])
    item = torch.zeros(len(items), width, dtype=torch.int64)
    label = torch.zeros(len(items), width)
    mask = torch.zeros(len(items), width, dtype=torch.bool)
    for t, ids in enumerate(items):
        item[t, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        label[t, : len(ids)] = torch.tensor(labels[t]) if labels else 1.0
        mask[t, : len(ids)] = True
    return Interactions(item, label, mask)


def supports(data, sizes=(0, 1, 2, 5, 3), seed=1, width=None):
    """Draw a support of distinct items for each size, with the features of the first entities."""
    rng = np.random.default_rng(seed)
    known = data.catalogue - FIRST
    items = [(rng.permutation(known)[: min(n, known)] + FIRST).tolist() for n in sizes]
    labels = None
    if data.schema.objective == "rating":
        labels = [rng.integers(1, 6, len(i)).astype(float).tolist() for i in items]
    if data.schema.objective == "click":
        labels = [rng.integers(0, 2, len(i)).astype(float).tolist() for i in items]
    return Support(lookup_rows(data.entities, np.arange(len(sizes))), rows(items, labels, width))


def map_rows(support, f):
    """Apply f to every tensor of a support's rows."""
    r = support.rows
    return Support(dict(support.features), Interactions(f(r.item), f(r.label), f(r.mask)))


def single_task(support, t):
    """Return the support of task t alone, without its padding."""
    n = int(support.rows.mask[t].sum())
    r = support.rows
    task_rows = Interactions(r.item[t : t + 1, :n], r.label[t : t + 1, :n], r.mask[t : t + 1, :n])
    return Support({k: v[t : t + 1] for k, v in support.features.items()}, task_rows)
