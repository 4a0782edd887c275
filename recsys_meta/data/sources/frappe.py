"""Frappe (Baltrunas et al., 2015): usages of phone apps with their context, such as time of day, place and weather.

The entity is the app, and every usage is a click. The data have no negatives, so each usage gets two sampled ones, as
is usual for click models on these data: apps that its user never used, drawn uniformly with a fixed seed, in the same
context. The click rate of an app is therefore a measure of its popularity.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from recsys_meta.core.arrays import IntArray
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.data.readers.csv_reader import CsvDialect, find_file, read_csv
from recsys_meta.data.readers.raw_tables import (
    RawFeatureTable,
    RawTables,
    RowChunk,
    map_chunks,
    map_frames,
    merge_chunks,
    select_rows,
)

NEGATIVES = 2
"""Number of sampled negatives for each usage; `sample_unused_apps` draws pairs."""

SEED = 20_150_512

_CONTEXT = ("daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
_SCHEMA = Schema(
    name="frappe",
    kind="ad",
    objective="click",
    entity="app",
    item="user",
    label="click",
    label_range=(0, 1),
    context=tuple(FeatureField(name=n, min_count=30 if n in ("country", "city") else 1) for n in _CONTEXT),
    entity_features=(
        FeatureField(name="category"),
        FeatureField(name="downloads"),
        FeatureField(name="developer", min_count=3),
        FeatureField(name="language"),
        FeatureField(name="price"),
    ),
    least_rows=10,
    min_query=5,
)


def read_frappe(folder: Path) -> RawTables:
    """Read interactions.csv.gz (usages) and items.csv.gz (apps). Raises DataError if a file is missing."""
    usages, apps = find_file(folder, "interactions.csv"), find_file(folder, "items.csv")
    columns = ("user", "item", *_CONTEXT)
    app_columns = ("item", "category", "downloads", "developer", "language", "price")
    return RawTables(
        schema=_SCHEMA,
        events=map_chunks(merge_chunks(read_csv(usages, columns, CsvDialect(","))), add_negatives),
        entities=RawFeatureTable("app", map_frames(read_csv(apps, app_columns, CsvDialect(",")), _clean_apps)),
        duplicates="keep",
        origin=(str(usages), str(apps)),
        expected={"entities": 4_082, "items": 957, "events": 96_203 * (1 + NEGATIVES)},
    )


def _clean_apps(frame: pd.DataFrame) -> pd.DataFrame:
    """Empty the cells that say "unknown", and reduce prices to "free" and "paid"."""
    apps = frame.rename(columns={"item": "app"}).replace("unknown", "")
    price = apps["price"].str.strip().str.lower()
    return apps.assign(price=price.where(price.isin(["", "free"]), "paid"))


def add_negatives(chunk: RowChunk) -> RowChunk:
    """Add NEGATIVES sampled negatives after each usage, with its line number.

    Raises DataError as `sample_unused_apps` does.
    """
    user, _ = pd.factorize(chunk.frame["user"].str.strip())
    app, apps = pd.factorize(chunk.frame["item"].str.strip(), sort=True)
    negatives = sample_unused_apps(user, app, len(apps), np.random.default_rng(SEED))
    rows = np.repeat(np.arange(len(user)), 1 + NEGATIVES)
    usages = select_rows(chunk, rows)
    names = apps.take(np.column_stack([app, negatives]).reshape(-1))
    click = np.tile([1] + [0] * NEGATIVES, len(user))
    frame = usages.frame.drop(columns="item").assign(app=names.to_numpy(), click=click)
    return RowChunk(usages.file, frame, usages.lines, usages.rejects, usages.fraction)


def sample_unused_apps(user: IntArray, app: IntArray, apps: int, rng: np.random.Generator) -> IntArray:
    """Draw two different apps [n, 2] for each row that its user never used, uniformly.

    user and app [n]: numbers of the user and the app of each row; apps: number of all apps. Raises DataError if a user
    has used all apps but one.
    """
    pairs = np.unique(user * apps + app)
    owner = pairs // apps
    count = np.bincount(owner)
    unused_count = apps - count[user]
    if (unused_count < NEGATIVES).any():
        raise DataError("a user has used every app, so that no negatives can be drawn", remedy="Is the file complete?")
    first = rng.integers(0, unused_count)
    second = rng.integers(0, unused_count - 1)
    rank = np.column_stack([first, second + (second >= first)])  # among the unused apps of the user
    # The number of the r-th unused app is r plus the number of used apps before it, which are those with at most r
    # unused apps before them.
    start = np.cumsum(count) - count
    unused_before = pairs % apps - (np.arange(len(pairs)) - start[owner])
    used_before = np.searchsorted(owner * (apps + 1) + unused_before, user[:, None] * (apps + 1) + rank, side="right")
    negatives: IntArray = rank + used_before - start[user][:, None]
    return negatives
