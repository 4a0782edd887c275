"""Small worlds of choices: entities with catalogues of their own, whose actors return, stay near and follow fashion."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from recsys_meta.dataset import Column, Dataset, Events, Vocabulary
from recsys_meta.schema import FeatureField, Schema
from recsys_meta.types import FIRST, Catalogue, Rows, Support


def choice_world(entities=16, items=30, actors=12, rows=12, again=0.4, seed=0):
    """Each entity has about `items` places; each actor takes `rows` of them, in turns with the others: with chance
    `again` one it had taken before, else a new one that is popular and near its last."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(items // 2, items + items // 2, entities)
    lat = rng.normal(40, 0.03, sizes.sum())
    lon = rng.normal(-80, 0.03, sizes.sum())
    first = np.concatenate([[0], np.cumsum(sizes)])
    item, actor, hour = [], [], []
    for e in range(entities):
        own = slice(first[e], first[e + 1])
        fame = 1.2 * rng.normal(size=sizes[e])
        apart = 111 * np.hypot(lat[own][:, None] - lat[own], (lon[own][:, None] - lon[own]) * 0.77)
        for row in range(rows):
            for a in rng.permutation(actors):
                past = [i for i, b in zip(item, actor, strict=True) if b == e * actors + a]
                if past and rng.random() < again:
                    taken = rng.choice(past)
                else:
                    utility = fame - (apart[past[-1] - first[e]] if past else 0.0) + rng.gumbel(size=sizes[e])
                    taken = first[e] + int(np.argmax(utility))
                item.append(int(taken))
                actor.append(e * actors + int(a))
                hour.append((row + int(a)) % 4)
    nothing = np.full(FIRST, np.nan)
    home = np.repeat(np.arange(entities), sizes)
    table = {
        "lat": Column("lat", np.concatenate([nothing, lat]).astype(np.float32)),
        "lon": Column("lon", np.concatenate([nothing, lon]).astype(np.float32)),
        "town": Column(
            "town",
            (home + FIRST).astype(np.int32),
            np.concatenate([np.zeros(FIRST, np.int64), np.arange(len(home) + 1)]),
            entities + FIRST,
        ),
    }
    events = Events(
        np.arange(entities + 1) * actors * rows,
        (np.array(item) + FIRST).astype(np.int32),
        np.ones(len(item), np.float32),
        np.tile(np.arange(actors * rows), entities).astype(np.int64),
        {"hour": (np.array(hour) + FIRST).astype(np.int32)},
        np.array(actor, np.int32),
    )
    names = {"item": len(home), "entity": entities, "item.town": entities, "context.hour": 4}
    schema = Schema(
        name="choice-world",
        kind="town",
        objective="choice",
        entity="town",
        time="time",
        actor="actor",
        home="town",
        item_features=(
            FeatureField(name="lat", kind="numeric"),
            FeatureField(name="lon", kind="numeric"),
            FeatureField(name="town"),
        ),
        context=(FeatureField(name="hour"),),
        shots=(0, 8, 32),
    )
    vocab = Vocabulary({k: pd.Index([str(i) for i in range(n)], dtype="str") for k, n in names.items()})
    return Dataset(schema, events, {}, table, vocab, digest="choice-world")


def rows_of(items, histories=None, hours=None):
    """Rows of one task: local ids, their histories and hours."""
    width = max([1, *(len(h) for h in histories or [])])
    history = torch.zeros(1, len(items), width, dtype=torch.int64)
    for r, own in enumerate(histories or []):
        history[0, r, : len(own)] = torch.tensor(own, dtype=torch.int64)
    item = torch.tensor([items], dtype=torch.int64).reshape(1, -1)
    when = {} if hours is None else {"hour": torch.tensor([hours])}
    return Rows(item, torch.ones(item.shape), item > 0, when, history)


def place_support(rows, lat, lon):
    """One task whose items lie at the given places."""
    real = len(lat)
    item = torch.cat([torch.zeros(FIRST, dtype=torch.int64), torch.arange(FIRST, real + FIRST)])[None]
    nothing = [torch.nan] * FIRST
    features = {"lat": torch.tensor([nothing + list(lat)]), "lon": torch.tensor([nothing + list(lon)])}
    return Support({}, rows, Catalogue(item, features, item > 0))
