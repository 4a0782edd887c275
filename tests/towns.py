"""A small world of choices, built in memory: entities with items of their own and actors who go about among them."""

import numpy as np
import pandas as pd

from recsys_meta.dataset import Column, Dataset, Events, Vocabulary
from recsys_meta.schema import FeatureField, Schema
from recsys_meta.types import FIRST

SCHEMA = Schema(
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


def towns(entities=6, items=12, actors=25, rows=60, seed=0, nearness=8.0):
    """Every actor makes `rows` steps: back to where it was before, or to a near place, or to a popular one."""
    rng = np.random.default_rng(seed)
    at = rng.uniform(0, 0.3, (entities, items, 2)) + rng.uniform(-40, 40, (entities, 1, 2))
    fame = rng.normal(size=(entities, items))
    town, spot, who, time = [], [], [], []
    for e in range(entities):
        for a in range(actors):
            last, met = rng.integers(items), np.zeros(items)
            for step in range(rows):
                away = np.sqrt(((at[e] - at[e, last]) ** 2).sum(1))
                chance = np.exp(fame[e] - nearness * away + 1.2 * np.log1p(met))
                last = rng.choice(items, p=chance / chance.sum())
                met[last] += 1
                town.append(e), spot.append(e * items + last), who.append(e * actors + a)
                time.append(step * 3600 + rng.integers(0, 3000))
    order = np.lexsort((time, town))
    town, spot, who, time = (np.asarray(v)[order] for v in (town, spot, who, time))
    names = pd.Index([f"t{e:02d}" for e in range(entities)], dtype="str")
    spots = pd.Index([f"s{i:03d}" for i in range(entities * items)], dtype="str")
    pad = np.full(FIRST, np.nan, np.float32)
    homes = FIRST + np.repeat(np.arange(entities), items)
    indptr = np.concatenate([np.zeros(FIRST, np.int64), np.arange(entities * items + 1)])
    hours = pd.Index([f"{h:02d}" for h in range(24)], dtype="str")
    events = Events(
        np.concatenate([[0], np.cumsum(np.bincount(town, minlength=entities))]),
        (spot + FIRST).astype(np.int32),
        np.ones(len(spot), np.float32),
        time.astype(np.int64),
        {"hour": ((time // 3600) % 24 + FIRST).astype(np.int32)},
        who.astype(np.int32),
    )
    flat = at.reshape(-1, 2).astype(np.float32)
    items_table = {
        "lat": Column("lat", np.concatenate([pad, flat[:, 0]])),
        "lon": Column("lon", np.concatenate([pad, flat[:, 1]])),
        "town": Column("town", homes.astype(np.int32), indptr, entities + FIRST),
    }
    vocab = Vocabulary({"entity": names, "item": spots, "item.town": names, "context.hour": hours})
    return Dataset(SCHEMA, events, {}, items_table, vocab, digest="towns")
