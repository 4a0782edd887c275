"""Case of a baseline: a small data set of its objective, and supports of 0 to 5 rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.feature_tensors import lookup_rows
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, IntArray, Interactions, Params, Support
from recsys_meta.evaluation.conformance.simulated_worlds import build_dataset
from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.baselines.per_shot_baseline import PerShotBaseline, make_per_shot

TRAIN_ENTITIES: IntArray = np.arange(40)


@dataclass(frozen=True)
class BaselineCase:
    """Fitted baseline, or its per-shot form, on the small data set of an objective.

    `plain` is the baseline itself, whatever form of it `predictor` is.
    """

    plain: BaselineConfig
    predictor: BaselineConfig | PerShotBaseline
    objective: Objective
    data: Dataset
    params: Params
    body: Params


def make_baseline_case(plain: BaselineConfig, objective: Objective, per_shot: bool = False) -> BaselineCase:
    """Fit a baseline for an objective; `per_shot`: in the form whose settings differ between support sizes."""
    data = group_world(objective)
    predictor: BaselineConfig | PerShotBaseline = plain
    if per_shot:
        grid = plain.grid()
        settings = [grid[0], grid[len(grid) // 2], grid[-1]]
        predictor = make_per_shot(plain.name, settings, [0, 1, 5], [0, 1, 2])
    params = predictor.fit(data, TRAIN_ENTITIES)
    return BaselineCase(plain, predictor, objective, data, params, predictor.body(params))


def group_world(
    objective: Objective = "ranking", entities: int = 60, items: int = 24, seed: int = 0, features: bool = True
) -> Dataset:
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
    # Two fields of ids on each side, not in the order of their names: nothing may depend on the order of keys.
    entity_features = [
        ("group", [[int(g)] for g in group]),
        ("age", rng.normal(size=entities)),
        ("area", [[i % 3] for i in range(entities)]),
    ]
    item_features = [
        ("genre", [[int(g)] for g in genre]),
        ("length", rng.normal(size=items)),
        ("decade", [[i % 4] for i in range(items)]),
    ]
    return build_dataset(
        f"world-{objective}",
        objective,
        item,
        label,
        entity_features=entity_features if features else (),
        item_features=item_features if features else (),
    )


def make_rows(
    items: Sequence[Sequence[int]], labels: Sequence[Sequence[float]] | None = None, width: int | None = None
) -> Interactions:
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


def draw_supports(
    data: Dataset, sizes: Sequence[int] = (0, 1, 2, 5, 3), seed: int = 1, width: int | None = None
) -> Support:
    """Draw a support of distinct items for each size, with the features of the first entities."""
    rng = np.random.default_rng(seed)
    count = data.catalogue - FIRST
    items = [(rng.permutation(count)[: min(n, count)] + FIRST).tolist() for n in sizes]
    labels = None
    if data.schema.objective == "rating":
        labels = [rng.integers(1, 6, len(i)).astype(float).tolist() for i in items]
    if data.schema.objective == "click":
        labels = [rng.integers(0, 2, len(i)).astype(float).tolist() for i in items]
    return Support(lookup_rows(data.entities, np.arange(len(sizes))), make_rows(items, labels, width))


def map_rows(support: Support, change: Callable[[Tensor], Tensor]) -> Support:
    """Apply a function to every tensor of a support's rows."""
    return Support(dict(support.features), support.rows.map(change))


def single_task(support: Support, task: int) -> Support:
    """Return the support of one task alone, without its padding."""
    n = int(support.rows.mask[task].sum())
    rows = support.rows.map(lambda t: t[task : task + 1, :n])
    return Support({k: v[task : task + 1] for k, v in support.features.items()}, rows)
