"""What a table of visits does not say but its coordinates do: cities, and the local hour and weekday."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import LATITUDE, LONGITUDE, Schema
from recsys_meta.data.build.feature_tables import first_row_per_id, read_homes
from recsys_meta.data.geo.geo_clusters import CityClusters, cluster_cities
from recsys_meta.data.readers.cells import parse_numbers
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
from recsys_meta.data.readers.time_columns import seconds_column
from recsys_meta.data.validation.row_checks import DEGREE_LIMITS, SKIP_REMEDY, RowErrors

LOCAL_TIME_FIELDS = ("hour", "weekday")
"""Context fields that follow from a time and a place."""


@dataclass(frozen=True)
class DerivedColumns:
    """Columns to be made: the entity and the item's home where there is a radius, and those of `clock`."""

    radius_km: float | None
    local_time: tuple[str, ...]

    def columns(self, schema: Schema) -> set[str]:
        """Columns that no file needs to have."""
        made = set(self.local_time)
        if self.radius_km is not None:
            made |= {schema.entity, *(f.source for f in schema.item_features if f.name == schema.home)}
        return made


def plan_derived(
    schema: Schema, radius_km: float | None, columns: tuple[str, ...], has_entities: bool
) -> DerivedColumns:
    """What is to be made for a table of events with these columns. Raises ConfigError for what cannot be."""
    named = {f.name for f in schema.item_features if f.kind == "numeric"}
    clock = tuple(f.source for f in schema.context if f.name in LOCAL_TIME_FIELDS and f.source not in columns)
    clock = clock if schema.time and LONGITUDE in named else ()
    if radius_km is None:
        return DerivedColumns(None, clock)
    if schema.home is None or not {LATITUDE, LONGITUDE} <= named:
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
    return DerivedColumns(radius_km, clock)


def derive_columns(tables: RawTables, want: DerivedColumns) -> RawTables:
    """The same tables with the columns that are wanted. The files are read when the tables are."""
    if want.radius_km is None and not want.local_time:
        return tables
    return _ColumnDeriver(tables, want).tables()


class _ColumnDeriver:
    """Makes columns from where the items lie; what it needs to know of all items it finds out when first asked."""

    def __init__(self, raw: RawTables, want: DerivedColumns) -> None:
        assert raw.items is not None
        self.raw, self.schema, self.items, self.plan = raw, raw.schema, raw.items, want

    def tables(self) -> RawTables:
        told = replace(self.raw, events=map_chunks(self.raw.events, self._derive_event_columns))
        if self.plan.radius_km is None:
            return told
        items = replace(self.items, read=map_frames(self.items.read, self._set_home))
        features = self.schema.entity_features
        entities = RawFeatureTable(self.schema.entity, self._read_cities) if features else None
        return replace(told, items=items, entities=entities)

    @cached_property
    def coordinates(self) -> pd.DataFrame:
        """Items with lat and lon in degrees (NaN where there is no usable one), in the order of their ids."""
        source = {f.name: f.source for f in self.schema.item_features if f.name in DEGREE_LIMITS}
        found = pd.DataFrame({name: pd.Series(dtype="float64") for name in source})
        for chunk in self.items.read(BLOCK_BYTES):
            made = {name: parse_numbers(chunk.frame[column])[0] for name, column in source.items()}
            found = first_row_per_id([found, pd.DataFrame(made, index=_stripped_text(chunk.frame[self.items.key]))])
        far = pd.concat([found[name].abs() > DEGREE_LIMITS[name] for name in source], axis=1).any(axis=1)
        return found.mask(far)

    @cached_property
    def cities(self) -> CityClusters:
        """Cities of the spots, where they are to be made."""
        assert self.plan.radius_km is not None
        visits = self._count_visits().reindex(self.coordinates.index).fillna(0).to_numpy(np.int64)
        lat, lon = (self.coordinates[name].to_numpy(np.float64) for name in (LATITUDE, LONGITUDE))
        return cluster_cities(lat, lon, visits, self.plan.radius_km)

    @cached_property
    def city_of_item(self) -> pd.Series:
        """The city of each spot, empty where there is none."""
        if self.plan.radius_km is not None:
            return pd.Series(
                np.array([*self.cities.names, ""])[self.cities.city], index=self.coordinates.index, dtype="str"
            )
        homes = read_homes(self.schema, self.items, BLOCK_BYTES)
        return (
            pd.Series("", index=self.coordinates.index)
            if homes is None
            else homes.reindex(self.coordinates.index).fillna("")
        )

    @cached_property
    def utc_offset(self) -> pd.Series:
        """Hours ahead of UTC: one for a whole city, the middle one of its places; else that of the place."""
        own = pd.Series(solar_offset(self.coordinates[LONGITUDE].to_numpy(np.float64)), index=self.coordinates.index)
        shared = own.groupby(self.city_of_item.to_numpy()).transform("median").round()
        return own.where(self.city_of_item == "", shared)

    def _count_visits(self) -> pd.Series:
        """Rows of each item."""
        known, counts = IdInterner(), np.zeros(0, np.int64)
        for chunk in self.raw.events(BLOCK_BYTES):
            number = known.add(_stripped_text(chunk.frame[self.schema.item]))
            counts = np.pad(counts, (0, len(known) - len(counts))) + np.bincount(number, minlength=len(known))
        index, place = known.sort()
        in_order = np.zeros_like(counts)
        in_order[place] = counts
        return pd.Series(in_order, index=index)

    def _set_home(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Items with the city as their home."""
        home = next(f.source for f in self.schema.item_features if f.name == self.schema.home)
        found = self.city_of_item.reindex(_stripped_text(frame[self.items.key])).fillna("")
        return frame.assign(**{home: found.to_numpy()})

    def _read_cities(self, block: int) -> Iterator[RowChunk]:
        place = {LATITUDE: self.cities.lat, LONGITUDE: self.cities.lon}
        told = {f.source: place[f.name] for f in self.schema.entity_features}
        frame = pd.DataFrame({self.schema.entity: self.cities.names, **told})
        yield from read_frame("cities made from places", frame)(block)

    def _derive_event_columns(self, chunk: RowChunk) -> RowChunk:
        """Events with the columns made. Visits to places in no city are refused."""
        item = _stripped_text(chunk.frame[self.schema.item])
        made: dict[str, npt.NDArray[np.object_]] = {}
        refusals = RowErrors(chunk)
        if self.plan.radius_km is not None:
            city = self.city_of_item.reindex(item).fillna("").to_numpy(object)
            made[self.schema.entity] = city
            remedy = f"Give its latitude and longitude in degrees. {SKIP_REMEDY}"
            nowhere = (city == "") & (item != "").to_numpy(bool)
            refusals.reject(nowhere, self.schema.item, "has no usable coordinates, so it lies in no city", remedy, item)
        if self.plan.local_time:
            assert self.schema.time is not None
            offset = self.utc_offset.reindex(item).to_numpy(np.float64)
            told = hour_and_weekday(seconds_column(chunk.frame[self.schema.time]), offset)
            made |= {
                f.source: told[f.name].to_numpy(object) for f in self.schema.context if f.source in self.plan.local_time
            }
        good = refusals.good
        frame = chunk.frame.assign(**made)[good].reset_index(drop=True)
        return RowChunk(chunk.file, frame, chunk.lines[good], refusals.table(), chunk.fraction)


def _stripped_text(cells: pd.Series) -> pd.Series:
    return cells.astype("str").str.strip()
