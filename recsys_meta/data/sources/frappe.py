"""Frappe (Baltrunas et al., 2015): which app was used by whom, when, where and in what weather.

An app is the ad and every usage a click. There are no real refusals, so each usage is given two made ones, as the
literature on click models does: another app that its user never used, drawn uniformly with a fixed seed, in the same
context. The share of clicks of an app therefore says how popular it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.core.types import IntArray
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
"""Made rows for each usage (a pair is drawn)."""

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
    """interactions.csv.gz (usages) and items.csv.gz (apps)."""
    usages, apps = find_file(folder, "interactions.csv"), find_file(folder, "items.csv")
    columns = ("user", "item", *_CONTEXT)
    about = ("item", "category", "downloads", "developer", "language", "price")
    return RawTables(
        schema=_SCHEMA,
        events=map_chunks(merge_chunks(read_csv(usages, columns, CsvDialect(","))), add_negatives),
        entities=RawFeatureTable("app", map_frames(read_csv(apps, about, CsvDialect(",")), _clean_apps)),
        duplicates="keep",
        origin=(str(usages), str(apps)),
        expected={"entities": 4_082, "items": 957, "events": 96_203 * (1 + NEGATIVES)},
    )


def _clean_apps(frame: pd.DataFrame) -> pd.DataFrame:
    """Side information with 'unknown' as an empty cell; a price is free or paid."""
    known = frame.rename(columns={"item": "app"}).replace("unknown", "")
    price = known["price"].str.strip().str.lower()
    return known.assign(price=price.where(price.isin(["", "free"]), "paid"))


def add_negatives(chunk: RowChunk) -> RowChunk:
    """Each usage followed by its made refusals, which have its line."""
    user, _ = pd.factorize(chunk.frame["user"].str.strip())
    app, apps = pd.factorize(chunk.frame["item"].str.strip(), sort=True)
    drawn = sample_unused_apps(user, app, len(apps), np.random.default_rng(SEED))
    rows = np.repeat(np.arange(len(user)), 1 + NEGATIVES)
    many = select_rows(chunk, rows)
    shown = apps.take(np.column_stack([app, drawn]).reshape(-1))
    click = np.tile([1] + [0] * NEGATIVES, len(user))
    frame = many.frame.drop(columns="item").assign(app=shown.to_numpy(), click=click)
    return RowChunk(many.file, frame, many.lines, many.rejects, many.fraction)


def sample_unused_apps(user: IntArray, app: IntArray, apps: int, rng: np.random.Generator) -> IntArray:
    """For each row [n] two different apps [n, 2] that its user never used, uniformly.

    Raises DataError where a user has used all apps but one.
    """
    used = np.unique(user * apps + app)
    owner = used // apps
    count = np.bincount(owner)
    left = apps - count[user]
    if (left < NEGATIVES).any():
        raise DataError("a user has used every app, so that no refusals can be made", remedy="Is the file complete?")
    first = rng.integers(0, left)
    second = rng.integers(0, left - 1)
    turn = np.column_stack([first, second + (second >= first)])
    # Before the r-th unused app stand as many used ones as have at most r unused ones before them.
    start = np.cumsum(count) - count
    unused_before = used % apps - (np.arange(len(used)) - start[owner])
    stands = np.searchsorted(owner * (apps + 1) + unused_before, user[:, None] * (apps + 1) + turn, side="right")
    drawn: IntArray = turn + stands - start[user][:, None]
    return drawn
