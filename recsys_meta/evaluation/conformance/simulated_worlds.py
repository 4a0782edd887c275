"""Small simulated data sets, built in memory, of each objective: what the checks adapt to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from recsys_meta.core.dataset import Dataset, Events, FeatureColumn, Vocabulary
from recsys_meta.core.schema import FeatureField, Objective, Schema
from recsys_meta.core.types import FIRST, FloatArray, IntArray

FeatureCells = Sequence[tuple[str, Any]]
"""Features as pairs of a name and its cells: numbers [n], or lists of ids [n][any] that start at 0."""
CITY_SCHEMA = Schema(
    name="towns",
    kind="town",
    objective="choice",
    entity="town",
    item="spot",
    actor="who",
    time="time",
    home="town",
    item_features=(
        FeatureField(name="lat", kind="numeric"),
        FeatureField(name="lon", kind="numeric"),
        FeatureField(name="town"),
    ),
    context=(FeatureField(name="hour"),),
    shots=(0, 8, 32),
)


def build_dataset(
    name: str,
    objective: Objective,
    item: Sequence[Any],
    label: Sequence[Any],
    *,
    entity_features: FeatureCells = (),
    item_features: FeatureCells = (),
    time: Sequence[Any] | None = None,
) -> Dataset:
    """Build a data set from the rows of each entity: item[e] and label[e], item ids starting at 0."""
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
    entity_table, entity_fields = _feature_table("entity", entity_features, 0, vocab)
    item_table, item_fields = _feature_table("item", item_features, FIRST, vocab)
    schema = Schema(
        name=name,
        objective=objective,
        label="label" if objective != "ranking" else None,
        label_range=(0, 1) if objective == "click" else None,
        time="time" if time is not None else None,
        entity_features=entity_fields,
        item_features=item_fields,
    )
    return Dataset(schema, events, entity_table, item_table, Vocabulary(vocab), digest=name)


def _names(prefix: str, n: int) -> pd.Index:
    return pd.Index([f"{prefix}{i}" for i in range(n)], dtype="str")


def _feature_table(
    side: str, features: FeatureCells, before: int, vocab: dict[str, pd.Index]
) -> tuple[dict[str, FeatureColumn], tuple[FeatureField, ...]]:
    """Columns and fields of one side, with `before` empty rows first; the names of ids are added to `vocab`."""
    table: dict[str, FeatureColumn] = {}
    fields = []
    for feature, cells in features:
        table[feature], size = _feature_column(feature, cells, before)
        fields.append(FeatureField(name=feature, kind="numeric" if size is None else "multi"))
        if size is not None:
            vocab[f"{side}.{feature}"] = _names(feature, size)
    return table, tuple(fields)


def _feature_column(name: str, cells: Any, before: int) -> tuple[FeatureColumn, int | None]:
    """Column with `before` empty rows first, and how many ids it has (None: numbers)."""
    if np.ndim(cells[0]) == 0:
        values = np.concatenate([np.full(before, np.nan), np.asarray(cells, float)]).astype(np.float32)
        return FeatureColumn(name, values), None
    indptr = np.concatenate([np.zeros(before + 1, int), np.cumsum([len(c) for c in cells])])
    values = np.concatenate([np.asarray(c, int) for c in cells])
    size = int(values.max()) + 1
    return FeatureColumn(name, (values + FIRST).astype(np.int32), indptr.astype(np.int64), size + FIRST), size


def _tastes(
    rng: np.random.Generator, entities: int, items: int, dims: int, groups: int
) -> tuple[IntArray, FloatArray, IntArray, FloatArray]:
    """Entities' vectors around their group's, items' vectors around their genre's."""
    centre = rng.normal(size=(groups, dims))
    group = rng.integers(0, groups, entities)
    taste = 0.5 * centre[group] + 1.2 * rng.normal(size=(entities, dims))
    genre = rng.integers(0, groups, items)
    vector = centre[genre] / np.sqrt(dims) + rng.normal(size=(items, dims)) / np.sqrt(dims)
    return group, taste, genre, vector


def _features(group: IntArray, genre: IntArray, rng: np.random.Generator) -> tuple[FeatureCells, FeatureCells]:
    """Group and age of entities, genres and length of items; some cells are empty."""
    both = [[g] if rng.random() < 0.7 else [g, (g + 1) % (genre.max() + 1)] for g in genre]
    both[0] = []
    age = rng.normal(40, 10, len(group))
    age[0] = np.nan
    return (
        (("group", [[g] for g in group]), ("age", age)),
        (("genres", both), ("length", rng.normal(100, 20, len(genre)))),
    )


def ranking_world(
    entities: int = 320, items: int = 80, rows: int = 20, dims: int = 3, seed: int = 0, features: bool = True
) -> Dataset:
    """Simulate entities that take `rows` different items each, by a softmax of taste . vector + popularity."""
    rng = np.random.default_rng(seed)
    group, taste, genre, vector = _tastes(rng, entities, items, dims, 4)
    logits = taste @ vector.T * 2 + 0.5 * rng.normal(size=items) + rng.gumbel(size=(entities, items))
    item = np.argsort(-logits, 1)[:, :rows]
    entity, other = _features(group, genre, rng) if features else ((), ())
    return build_dataset(
        "ranking-world",
        "ranking",
        list(rng.permuted(item, axis=1)),
        [np.ones(rows)] * entities,
        entity_features=entity,
        item_features=other,
    )


def rating_world(
    entities: int = 240,
    items: int = 60,
    rows: int = 24,
    dims: int = 3,
    seed: int = 0,
    objective: Objective = "rating",
    features: bool = True,
) -> Dataset:
    """Simulate label = level + biases of entity and item + taste . vector + noise; as clicks, whether that is above 0.

    Some items recur within an entity, as a place or an advertisement does.
    """
    rng = np.random.default_rng(seed)
    group, taste, genre, vector = _tastes(rng, entities, items, dims, 4)
    item = rng.integers(0, items, (entities, rows))
    value = np.take_along_axis(taste @ vector.T, item, 1) + rng.normal(size=items)[item] * 0.5
    value = value + rng.normal(size=(entities, 1)) * 0.7 + 0.4 * rng.normal(size=item.shape)
    label = value > 0.3 if objective == "click" else value + 3
    entity, other = _features(group, genre, rng) if features else ((), ())
    return build_dataset(
        f"{objective}-world",
        objective,
        list(item),
        list(label.astype(float)),
        entity_features=entity,
        item_features=other,
    )


def city_world(
    entities: int = 6, items: int = 12, actors: int = 25, rows: int = 60, seed: int = 0, nearness: float = 8.0
) -> Dataset:
    """Simulate towns with places of their own: every actor makes `rows` steps, back to where it was before, or to a
    near place, or to a popular one."""
    rng = np.random.default_rng(seed)
    at = rng.uniform(0, 0.3, (entities, items, 2)) + rng.uniform(-40, 40, (entities, 1, 2))
    fame = rng.normal(size=(entities, items))
    steps: list[tuple[int, int, int, int]] = []
    for e in range(entities):
        for a in range(actors):
            last, visits = int(rng.integers(items)), np.zeros(items)
            for step in range(rows):
                away = np.sqrt(((at[e] - at[e, last]) ** 2).sum(1))
                chance = np.exp(fame[e] - nearness * away + 1.2 * np.log1p(visits))
                last = int(rng.choice(items, p=chance / chance.sum()))
                visits[last] += 1
                steps.append((e, e * items + last, e * actors + a, step * 3600 + int(rng.integers(0, 3000))))
    town, spot, who, time = np.array(steps).T
    order = np.lexsort((time, town))
    return _city_dataset(at.reshape(-1, 2), *(column[order] for column in (town, spot, who, time)))


def _city_dataset(at: FloatArray, town: IntArray, spot: IntArray, who: IntArray, time: IntArray) -> Dataset:
    entities, items = int(town.max()) + 1, len(at)
    names = pd.Index([f"t{e:02d}" for e in range(entities)], dtype="str")
    spots = pd.Index([f"s{i:03d}" for i in range(items)], dtype="str")
    pad = np.full(FIRST, np.nan, np.float32)
    homes = FIRST + np.repeat(np.arange(entities), items // entities)
    indptr = np.concatenate([np.zeros(FIRST, np.int64), np.arange(items + 1)])
    hours = pd.Index([f"{h:02d}" for h in range(24)], dtype="str")
    events = Events(
        np.concatenate([[0], np.cumsum(np.bincount(town, minlength=entities))]),
        (spot + FIRST).astype(np.int32),
        np.ones(len(spot), np.float32),
        time.astype(np.int64),
        {"hour": ((time // 3600) % 24 + FIRST).astype(np.int32)},
        who.astype(np.int32),
    )
    places = at.astype(np.float32)
    table = {
        "lat": FeatureColumn("lat", np.concatenate([pad, places[:, 0]])),
        "lon": FeatureColumn("lon", np.concatenate([pad, places[:, 1]])),
        "town": FeatureColumn("town", homes.astype(np.int32), indptr, entities + FIRST),
    }
    vocab = Vocabulary({"entity": names, "item": spots, "item.town": names, "context.hour": hours})
    return Dataset(CITY_SCHEMA, events, {}, table, vocab, digest="towns")
