"""A large simulated log with structure to find: users whose tastes follow from their attributes and who choose items.

    python -m benchmarks.scale_data FOLDER --events 10000000 --users 500000 --items 100000

writes a folder with a TOML schema, which `recsys-meta data prepare FOLDER/scale.toml` prepares. The model of choice is
that of the simulator (`recsys_meta.data.simulators.latent_factors`), but for the popularity of items, which is as
skewed as that of a shop, and for the choice, which is made from a few thousand items that are drawn by popularity for
each block of users: nobody looks at a whole catalogue, and cost does not grow with it.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_meta.core.arrays import FloatArray, IntArray
from recsys_meta.data.simulators.latent_factors import (
    DURATION,
    LATENT_DIMS,
    MIN_ROWS,
    START_TIME,
    category_vectors,
    check_sizes,
    numbered_names,
    sample_activity,
    sample_subset,
    sample_tastes,
)
from recsys_meta.data.simulators.schemas import GENRES, USER_ATTRIBUTES

SKEW = 2.0
"""Standard deviation of the log of an item's popularity: of 100,000 items the most popular one has 1% of the events."""
DRAWN, BLOCK = 4096, 64
"""Items that are drawn by popularity for a block of users, unless told otherwise, and users of a block."""
PART_ROWS = 1_000_000
"""Rows of events that are held before they are written."""

SCHEMA = """\
# Simulated users who look at items of a large shop.
name = "scale"
entity = "user"
item = "item"
time = "time"

[files]
events = "events.parquet"
entities = "users.parquet"
items = "items.parquet"
""" + "".join(
    f'\n[[{table}]]\nname = "{name}"\n{more}'
    for table, name, more in (
        *(("entity_features", name, "") for name, _ in USER_ATTRIBUTES),
        ("item_features", "genres", 'kind = "multi"\nseparator = "|"\n'),
    )
)


def make(folder: Path, events: int, users: int, items: int, seed: int = 0, drawn: int = DRAWN) -> Path:
    """Write the files and return the schema's path. Raises ConfigError for sizes that do not fit together.

    `drawn`: items that are drawn for a block of users; the time follows it, and no user has more than an eighth of it.
    """
    check_sizes(users, items, events, MIN_ROWS)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    attributes = {name: rng.integers(0, len(values), users) for name, values in USER_ATTRIBUTES}
    genres, genre = sample_subset(rng, GENRES, items, 3, "|")
    tastes, _ = sample_tastes(rng, [(attributes[n], len(v)) for n, v in USER_ATTRIBUTES], LATENT_DIMS, 0.5, 0.7)
    latent = 0.7 * category_vectors(rng, [(genre, len(GENRES))], LATENT_DIMS, 0.6)
    user_ids, item_ids = numbered_names("u", users), numbered_names("f", items)
    _write(folder / "users.parquet", {"user": user_ids} | {n: np.array(v)[attributes[n]] for n, v in USER_ATTRIBUTES})
    _write(folder / "items.parquet", {"item": item_ids, "genres": genres})
    popularity = np.cumsum(np.exp(SKEW * rng.normal(size=items)))
    counts = np.minimum(sample_activity(rng, users, items, events, MIN_ROWS), drawn // 8)
    arrival = START_TIME + (rng.random(users) * DURATION).astype(np.int64)
    user_values, item_values = pa.array(user_ids), pa.array(item_ids)
    schema = pa.schema([("user", pa.string()), ("item", pa.string()), ("time", pa.int64())])
    with pq.ParquetWriter(folder / "events.parquet", schema) as writer:
        for first, last in _parts(counts):
            parts = [
                sample_block(rng, tastes[start:end], latent, popularity, counts[start:end], drawn)
                for start, end in ((b, min(b + BLOCK, last)) for b in range(first, last, BLOCK))
            ]
            user, item = np.repeat(np.arange(first, last), counts[first:last]), np.concatenate(parts)
            time = arrival[user] + 3600 * (
                np.arange(len(user)) - (np.cumsum(counts[first:last]) - counts[first:last])[user - first]
            )
            order = rng.permutation(len(user))
            columns = [
                user_values.take(pa.array(user[order])),
                item_values.take(pa.array(item[order])),
                pa.array(time[order]),
            ]
            writer.write_table(pa.table(columns, schema=schema))
    (folder / "scale.toml").write_text(SCHEMA)
    return folder / "scale.toml"


def sample_block(
    rng: np.random.Generator,
    taste: FloatArray,
    latent: FloatArray,
    popularity: FloatArray,
    counts: IntArray,
    drawn: int = DRAWN,
) -> IntArray:
    """Sample the items [N] that a block of users [B, K] choose, user by user, in order of choice.

    `popularity` [I] is summed up; counts [B]: items of each user. Items of the draw are weighed by how often they were
    drawn (Plackett and Luce, by Gumbel noise).
    """
    draws = np.searchsorted(popularity, np.sort(rng.random(drawn)) * popularity[-1])
    distinct, often = np.unique(draws, return_counts=True)
    utility = (taste @ latent[distinct].T + np.log(often)).astype(np.float32)
    waiting = rng.standard_exponential(utility.shape, np.float32)
    utility -= np.log(np.maximum(waiting, np.finfo(np.float32).tiny))
    most = min(int(counts.max()), utility.shape[1] - 1)
    best = np.argpartition(-utility, most, axis=1)[:, :most]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(utility, best, 1), axis=1), 1)
    chosen: IntArray = distinct[best[np.arange(most) < counts[:, None]]]
    return chosen


def _parts(counts: IntArray) -> list[tuple[int, int]]:
    """Ranges of users, whole blocks, with about PART_ROWS rows each."""
    part = np.cumsum(counts) // PART_ROWS
    cuts = np.flatnonzero(np.diff(part)) + 1
    cuts = np.unique(cuts // BLOCK * BLOCK)
    edges = [0, *cuts[cuts > 0].tolist(), len(counts)]
    return list(pairwise(edges))


def _write(path: Path, columns: dict[str, np.ndarray]) -> None:
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, value in (("events", 10_000_000), ("users", 500_000), ("items", 100_000), ("seed", 0), ("drawn", DRAWN)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    print(make(given.folder, given.events, given.users, given.items, given.seed, given.drawn))


if __name__ == "__main__":
    main()
