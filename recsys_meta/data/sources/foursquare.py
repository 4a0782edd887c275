"""Check-ins at places of North American cities (Foursquare; Liu et al., 2017), to predict the next place in a city.

The entity is the city. Rows without a city, and cities with fewer than MIN_CHECKINS rows, are left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from recsys_meta.core.cells import parse_numbers
from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.schema import LATITUDE, LONGITUDE, FeatureField, Schema
from recsys_meta.data.readers.csv_reader import CsvDialect, find_file, read_csv
from recsys_meta.data.readers.local_time import hour_and_weekday, us_summer_time
from recsys_meta.data.readers.raw_tables import (
    BLOCK_BYTES,
    RawFeatureTable,
    RawTables,
    ReadChunks,
    RowChunk,
    map_chunks,
    map_frames,
    merge_chunks,
    select_rows,
)
from recsys_meta.data.readers.time_columns import seconds_column

MIN_CHECKINS = 300
"""Smallest number of check-ins of a city."""

_POINT = (FeatureField(name=LATITUDE, kind="numeric"), FeatureField(name=LONGITUDE, kind="numeric"))
_SCHEMA = Schema(
    name="foursquare-us",
    kind="city",
    objective="choice",
    entity="city",
    item="place",
    actor="user",
    time="timestamp",
    home="city",
    context=(FeatureField(name="hour"), FeatureField(name="weekday")),
    entity_features=(FeatureField(name="country"), *_POINT),
    item_features=(*_POINT, FeatureField(name="city")),
    shots=(0, 64, 256, 1024),
    min_query=50,
    least_rows=MIN_CHECKINS,
    folds=5,
)
_SUMMER_TIME_COUNTRIES = ("US", "CA")  # countries with the dates of the United States; those of Mexico differ
_NO_SUMMER_TIME_CITIES = ("Honolulu", "Phoenix", "Tucson")


def read_foursquare(folder: Path) -> RawTables:
    """Read checkins.csv.gz, items.csv.gz (places) and cities.csv.gz. Raises DataError if a file is missing."""
    visits, places, cities = (find_file(folder, f"{n}.csv") for n in ("checkins", "items", "cities"))
    offsets = _read_utc_offsets(read_csv(cities, ("city", "country", "utc_offset_h"), CsvDialect(",")))
    log = read_csv(visits, ("user", "item", "timestamp", "city"), CsvDialect(","))
    place_table = map_frames(
        read_csv(places, ("item", "lat", "lon", "city"), CsvDialect(",")), lambda f: f.rename(columns={"item": "place"})
    )
    return RawTables(
        schema=_SCHEMA,
        events=map_chunks(merge_chunks(log), lambda chunk: _checkins(chunk, offsets)),
        entities=RawFeatureTable("city", read_csv(cities, ("city", "country", "lat", "lon"), CsvDialect(","))),
        items=RawFeatureTable("place", place_table),
        origin=(str(visits), str(places), str(cities)),
        expected={"entities": 41, "items": 7_878, "events": 183_958},
    )


def _read_utc_offsets(read: ReadChunks) -> pd.DataFrame:
    """Read the columns offset (hours ahead of UTC in winter) and summer (True where there is summer time), by city."""
    table = pd.concat([chunk.frame for chunk in read(BLOCK_BYTES)])
    table["offset"] = parse_numbers(table["utc_offset_h"])[0]
    table["summer"] = table["country"].isin(_SUMMER_TIME_COUNTRIES) & ~table["city"].isin(_NO_SUMMER_TIME_CITIES)
    return table.drop_duplicates("city").set_index("city")[["offset", "summer"]]


def _checkins(chunk: RowChunk, offsets: pd.DataFrame) -> RowChunk:
    city = chunk.frame["city"].str.strip()
    large = city.map(city.value_counts()) >= MIN_CHECKINS
    chunk = select_rows(chunk, (large & (city != "")).to_numpy(bool))
    frame = chunk.frame.rename(columns={"item": "place"})
    city_offset = offsets.reindex(frame["city"].str.strip())
    offset, summer = city_offset["offset"].to_numpy(np.float64), city_offset["summer"].fillna(False).to_numpy(bool)
    time = seconds_column(frame["timestamp"])
    usable = (time >= 0) & (time != NO_TIME) & ~np.isnan(offset)
    in_summer = us_summer_time(np.where(usable, time, 0), np.where(usable, offset, 0.0)) & summer & usable
    local_time = hour_and_weekday(time, offset + in_summer)
    return RowChunk(chunk.file, pd.concat([frame, local_time], axis=1), chunk.lines, chunk.rejects, chunk.fraction)
