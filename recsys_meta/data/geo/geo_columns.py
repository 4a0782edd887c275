"""Columns of a table of visits that are derived from coordinates: cities, and the local hour and weekday."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_meta.core.arrays import IntArray
from recsys_meta.core.cells import parse_numbers, text_cells
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import LATITUDE, LONGITUDE, Schema
from recsys_meta.data.build.feature_tables import first_row_per_id, read_homes
from recsys_meta.data.geo.geo_clusters import CityClusters, cluster_cities
from recsys_meta.data.readers.id_interner import IdInterner
from recsys_meta.data.readers.local_time import hour_and_weekday, solar_offset
from recsys_meta.data.readers.raw_tables import (
    BLOCK_BYTES,
    RawFeatureTable,
    RawTables,
    RowChunk,
    map_chunks,
    map_frames,
    read_frame,
)
from recsys_meta.data.readers.time_columns import NumberForm, seconds_column
from recsys_meta.data.validation.row_checks import DEGREE_LIMITS, SKIP_REMEDY, RowErrors

LOCAL_TIME_FIELDS = ("hour", "weekday")
"""Context fields that follow from the time of a visit and the coordinates of its place."""


@dataclass(frozen=True)
class DerivedColumns:
    """Plan of the columns to derive.

    With `radius_km` these are the entity of the events and the home of the items, both a city. `local_time` are the
    source columns of local hour and weekday.
    """

    radius_km: float | None
    local_time: tuple[str, ...]

    def columns(self, schema: Schema) -> set[str]:
        """Return the names of the derived columns, which no file has to have."""
        names = set(self.local_time)
        if self.radius_km is not None:
            names |= {schema.entity, *(f.source for f in schema.item_features if f.name == schema.home)}
        return names


def plan_derived(
    schema: Schema, radius_km: float | None, columns: tuple[str, ...], has_entities: bool
) -> DerivedColumns:
    """Plan the columns to derive for events that have these columns.

    `radius_km` is the radius of cities to be made, None for none; `has_entities` is True where the user has a feature
    table of the entities. Raises ConfigError if cities cannot be made under this schema.
    """
    numeric = {f.name for f in schema.item_features if f.kind == "numeric"}
    absent = tuple(f.source for f in schema.context if f.name in LOCAL_TIME_FIELDS and f.source not in columns)
    local_time = absent if schema.time and LONGITUDE in numeric else ()
    if radius_km is None:
        return DerivedColumns(None, local_time)
    if schema.home is None or not {LATITUDE, LONGITUDE} <= numeric:
        raise ConfigError(
            "[files] city_radius_km needs the objective 'choice', a home, and the numeric item features 'lat' and 'lon'"
        )
    if schema.entity in columns:
        raise ConfigError(
            f"[files] city_radius_km makes the column '{schema.entity}', but the events have it; leave one out"
        )
    others = sorted({f.name for f in schema.entity_features} - set(DEGREE_LIMITS))
    if has_entities or others:
        raise ConfigError("[files] city_radius_km: of a city made from places only 'lat' and 'lon' are known")
    return DerivedColumns(radius_km, local_time)


def derive_columns(tables: RawTables, plan: DerivedColumns) -> RawTables:
    """Add the planned columns to raw tables. Files are read only when the returned tables are."""
    if plan.radius_km is None and not plan.local_time:
        return tables
    return _ColumnDeriver(tables, plan).tables()


class _ColumnDeriver:
    """Derivation of columns from the coordinates of the items; properties of all items are computed once, on demand."""

    def __init__(self, raw: RawTables, plan: DerivedColumns) -> None:
        assert raw.items is not None
        self.raw, self.schema, self.items, self.plan = raw, raw.schema, raw.items, plan
        self.number_forms: defaultdict[str, NumberForm] = defaultdict(NumberForm)

    def tables(self) -> RawTables:
        """Return the raw tables with the planned columns."""
        tables = replace(self.raw, events=map_chunks(self.raw.events, self._derive_event_columns))
        if self.plan.radius_km is None:
            return tables
        items = replace(self.items, read=map_frames(self.items.read, self._set_home))
        features = self.schema.entity_features
        entities = RawFeatureTable(self.schema.entity, self._read_cities) if features else None
        return replace(tables, items=items, entities=entities)

    @cached_property
    def coordinates(self) -> pd.DataFrame:
        """Columns lat and lon in degrees, indexed by item; NaN where a cell is empty, not a number or out of range."""
        source = {f.name: f.source for f in self.schema.item_features if f.name in DEGREE_LIMITS}
        coordinates = pd.DataFrame({name: pd.Series(dtype="float64") for name in source})
        for chunk in self.items.read(BLOCK_BYTES):
            numbers = {name: parse_numbers(chunk.frame[column])[0] for name, column in source.items()}
            items = pd.DataFrame(numbers, index=text_cells(chunk.frame[self.items.key]))
            coordinates = first_row_per_id([coordinates, items])
        out_of_range = pd.concat([coordinates[name].abs() > DEGREE_LIMITS[name] for name in source], axis=1)
        return coordinates.mask(out_of_range.any(axis=1))

    @cached_property
    def cities(self) -> CityClusters:
        """Cities of the items, where the plan has a radius."""
        assert self.plan.radius_km is not None
        visits = self._count_visits().reindex(self.coordinates.index).fillna(0).to_numpy(np.int64)
        lat, lon = (self.coordinates[name].to_numpy(np.float64) for name in (LATITUDE, LONGITUDE))
        return cluster_cities(lat, lon, visits, self.plan.radius_km)

    @cached_property
    def city_of_item(self) -> pd.Series:
        """Name of the city of each item, indexed by item, empty where there is none."""
        items = self.coordinates.index
        if self.plan.radius_km is not None:
            names = np.array([*self.cities.names, ""])  # city -1, of items without coordinates, is the last name
            return pd.Series(names[self.cities.city], index=items, dtype="str")
        homes = read_homes(self.schema, self.items, BLOCK_BYTES)
        return pd.Series("", index=items) if homes is None else homes.reindex(items).fillna("")

    @cached_property
    def utc_offset(self) -> pd.Series:
        """Hours ahead of UTC, indexed by item: the median over the places of its city, else that of the place."""
        offset = pd.Series(solar_offset(self.coordinates[LONGITUDE].to_numpy(np.float64)), index=self.coordinates.index)
        city_offset = offset.groupby(self.city_of_item.to_numpy()).transform("median").round()
        return offset.where(self.city_of_item == "", city_offset)

    def _times(self, chunk: RowChunk) -> IntArray:
        assert self.schema.time is not None
        numbers = self.number_forms[chunk.file]
        return seconds_column(chunk.frame[self.schema.time], self.schema.time_format, self.schema.time_zone, numbers)

    def _count_visits(self) -> pd.Series:
        """Count the rows of each item in the events, indexed by item."""
        interner, counts = IdInterner(), np.zeros(0, np.int64)
        for chunk in self.raw.events(BLOCK_BYTES):
            number = interner.add(text_cells(chunk.frame[self.schema.item]))
            counts = np.pad(counts, (0, len(interner) - len(counts))) + np.bincount(number, minlength=len(interner))
        items, rank = interner.sort()
        sorted_counts = np.zeros_like(counts)
        sorted_counts[rank] = counts
        return pd.Series(sorted_counts, index=items)

    def _set_home(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Set the home of items to their city."""
        home = next(f.source for f in self.schema.item_features if f.name == self.schema.home)
        city = self.city_of_item.reindex(text_cells(frame[self.items.key])).fillna("")
        return frame.assign(**{home: city.to_numpy()})

    def _read_cities(self, block: int) -> Iterator[RowChunk]:
        """Read the feature table of the cities: their names and the coordinates that the schema has."""
        centre = {LATITUDE: self.cities.lat, LONGITUDE: self.cities.lon}
        features = {f.source: centre[f.name] for f in self.schema.entity_features}
        frame = pd.DataFrame({self.schema.entity: self.cities.names, **features})
        yield from read_frame("cities made from places", frame)(block)

    def _derive_event_columns(self, chunk: RowChunk) -> RowChunk:
        """Add the derived columns to events. Visits to places without a city are rejected."""
        item = text_cells(chunk.frame[self.schema.item])
        columns: dict[str, npt.NDArray[np.object_]] = {}
        errors = RowErrors(chunk)
        if self.plan.radius_km is not None:
            city = self.city_of_item.reindex(item).fillna("").to_numpy(object)
            columns[self.schema.entity] = city
            remedy = f"Give its latitude and longitude in degrees. {SKIP_REMEDY}"
            no_city = (city == "") & (item != "").to_numpy(bool)
            errors.reject(no_city, self.schema.item, "has no usable coordinates, so it lies in no city", remedy, item)
        if self.plan.local_time:
            offset = self.utc_offset.reindex(item).to_numpy(np.float64)
            local_time = hour_and_weekday(self._times(chunk), offset)
            fields = [f for f in self.schema.context if f.source in self.plan.local_time]
            columns |= {f.source: local_time[f.name].to_numpy(object) for f in fields}
        good = errors.good
        frame = chunk.frame.assign(**columns)[good].reset_index(drop=True)
        return RowChunk(chunk.file, frame, chunk.lines[good], errors.table(), chunk.fraction)
