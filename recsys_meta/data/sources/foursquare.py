"""Check-ins at places of American cities (Foursquare; Liu et al., 2017): where somebody goes next within a city.

A city is the newcomer. Rows without a city, and cities of too few rows, are left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.schema import LATITUDE, LONGITUDE, FeatureField, Schema
from recsys_meta.data.readers.cells import parse_numbers
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
"""Check-ins that a city needs."""

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
_SUMMER_TIME_COUNTRIES = ("US", "CA")  # where the rule for summer time holds; Mexico's dates were others
_NO_SUMMER_TIME_CITIES = ("Honolulu", "Phoenix", "Tucson")


def read_foursquare(folder: Path) -> RawTables:
    """checkins.csv.gz, items.csv.gz (places) and cities.csv.gz."""
    visits, places, cities = (find_file(folder, f"{n}.csv") for n in ("checkins", "items", "cities"))
    offsets = _read_utc_offsets(read_csv(cities, ("city", "country", "utc_offset_h"), CsvDialect(",")))
    log = read_csv(visits, ("user", "item", "timestamp", "city"), CsvDialect(","))
    spots = map_frames(
        read_csv(places, ("item", "lat", "lon", "city"), CsvDialect(",")), lambda f: f.rename(columns={"item": "place"})
    )
    return RawTables(
        schema=_SCHEMA,
        events=map_chunks(merge_chunks(log), lambda chunk: _checkins(chunk, offsets)),
        entities=RawFeatureTable("city", read_csv(cities, ("city", "country", "lat", "lon"), CsvDialect(","))),
        items=RawFeatureTable("place", spots),
        origin=(str(visits), str(places), str(cities)),
        expected={"entities": 41, "items": 7_878, "events": 183_958},
    )


def _read_utc_offsets(read: ReadChunks) -> pd.DataFrame:
    """Hours ahead of UTC in winter, and whether summer time is kept, by city."""
    table = pd.concat([chunk.frame for chunk in read(BLOCK_BYTES)])
    table["offset"] = parse_numbers(table["utc_offset_h"])[0]
    table["summer"] = table["country"].isin(_SUMMER_TIME_COUNTRIES) & ~table["city"].isin(_NO_SUMMER_TIME_CITIES)
    return table.drop_duplicates("city").set_index("city")[["offset", "summer"]]


def _checkins(chunk: RowChunk, offsets: pd.DataFrame) -> RowChunk:
    city = chunk.frame["city"].str.strip()
    large = city.map(city.value_counts()) >= MIN_CHECKINS
    chunk = select_rows(chunk, (large & (city != "")).to_numpy(bool))
    frame = chunk.frame.rename(columns={"item": "place"})
    here = offsets.reindex(frame["city"].str.strip())
    offset, summer = here["offset"].to_numpy(np.float64), here["summer"].fillna(False).to_numpy(bool)
    time = seconds_column(frame["timestamp"])
    usable = (time >= 0) & (time != NO_TIME) & ~np.isnan(offset)
    later = us_summer_time(np.where(usable, time, 0), np.where(usable, offset, 0.0)) & summer & usable
    told = hour_and_weekday(time, offset + later)
    return RowChunk(chunk.file, pd.concat([frame, told], axis=1), chunk.lines, chunk.rejects, chunk.fraction)
