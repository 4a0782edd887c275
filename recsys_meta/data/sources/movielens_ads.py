"""MovieLens 1M as a log of advertisements (Pan et al., 2019, Meta-Embedding): a film is an ad, a rating of 4 or more a
click.

Films with 300 rows or more are the old ads, those with 80 to 299 the new ones. The published protocol takes the rows of
an ad by ascending user id in blocks of 20. That order is backwards in time, because MovieLens 1M numbers its users from
the latest to the earliest. The variant "forward" takes them by descending user id, in the order of time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from recsys_meta.core.cells import parse_numbers
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.data.readers.cells import coalesce
from recsys_meta.data.readers.raw_tables import (
    RawFeatureTable,
    RawTables,
    RowChunk,
    map_chunks,
    map_frames,
    merge_chunks,
    select_rows,
)
from recsys_meta.data.sources.movielens import read_movielens_1m

MIN_ROWS, OLD_AD_ROWS = 80, 300
"""Smallest number of rows of an ad, and of an old ad."""

BLOCK_ROWS = 20
"""Rows of a block of the published protocol; the query begins after three blocks."""

CLICK_RATING = 4
"""Lowest rating that is a click."""

_SCHEMA = Schema(
    name="movielens-1m-ads",
    kind="ad",
    objective="click",
    entity="movie",
    item="user",
    label="click",
    label_range=(0, 1),
    # Not a real time: a number by which the rows of an ad are sorted.
    time="turn",
    entity_features=(
        FeatureField(name="title", kind="text", min_count=2),
        FeatureField(name="genres", kind="multi"),
        FeatureField(name="year", min_count=5),
        FeatureField(name="decade"),
    ),
    item_features=(
        FeatureField(name="gender"),
        FeatureField(name="age", column="age_group"),
        FeatureField(name="occupation"),
    ),
    shots=(0, BLOCK_ROWS, 2 * BLOCK_ROWS, 3 * BLOCK_ROWS),
    query_from=3 * BLOCK_ROWS,
    min_query=20,
    least_rows=MIN_ROWS,
    past_rows=OLD_AD_ROWS,
)


def read_movielens_1m_ads(folder: Path) -> RawTables:
    """Read MovieLens 1M as ads in the published order: rows of an ad by ascending user id."""
    return _read_ads(folder, _SCHEMA, forward=False)


def read_movielens_1m_ads_forward(folder: Path) -> RawTables:
    """Read MovieLens 1M as ads in the order of time: rows of an ad by descending user id."""
    return _read_ads(folder, _SCHEMA.model_copy(update={"name": "movielens-1m-ads-forward"}), forward=True)


def _read_ads(folder: Path, schema: Schema, forward: bool) -> RawTables:
    films = read_movielens_1m(folder)
    assert films.items is not None
    return RawTables(
        schema=schema,
        events=map_chunks(merge_chunks(films.events), lambda chunk: _impressions(chunk, forward)),
        entities=RawFeatureTable("movie", map_frames(films.items.read, _ad_features)),
        items=films.entities,
        origin=films.origin,
        ordinal_time=True,
        expected={"entities": 1_058 + 1_127, "items": 6_040, "events": 765_669 + 191_407},
    )


def _ad_features(frame: pd.DataFrame) -> pd.DataFrame:
    """Rename the key to that of the entity, and remove the year, a feature of its own, from the title."""
    title = frame["title"].str.replace(r"\s*\(\d{4}[^)]*\)\s*$", "", regex=True)
    return frame.rename(columns={"item": "movie"}).assign(title=title)


def _impressions(chunk: RowChunk, forward: bool) -> RowChunk:
    """Convert the ratings of films with at least MIN_ROWS of them to impressions of ads."""
    movie = chunk.frame["item"]
    chunk = select_rows(chunk, (movie.map(movie.value_counts()) >= MIN_ROWS).to_numpy(bool))
    frame = chunk.frame
    rating, _ = parse_numbers(frame["rating"])
    user, _ = parse_numbers(frame["user"])
    turn = np.nanmax(user, initial=0) + 1 - user if forward else user
    columns = {"movie": frame["item"], "user": frame["user"]}
    # Cells that are not numbers stay as they are, for the check of the rows to reject them with their lines.
    columns["click"] = coalesce((rating >= CLICK_RATING).astype(int), np.isnan(rating), frame["rating"])
    columns["turn"] = coalesce(turn, np.isnan(user), frame["user"])
    return RowChunk(chunk.file, pd.DataFrame(columns), chunk.lines, chunk.rejects, chunk.fraction)
