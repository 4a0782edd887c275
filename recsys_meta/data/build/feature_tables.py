"""Feature tables of entities and items, read whole and put in the order of the ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from recsys_meta.core.dataset import FeatureColumn
from recsys_meta.core.errors import DataError
from recsys_meta.core.feature_encoding import build_vocabulary, encode_column
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.data.readers.raw_tables import RawFeatureTable, RowChunk
from recsys_meta.data.validation.rejects import RejectWriter
from recsys_meta.data.validation.row_checks import check_features, check_unique_ids


@dataclass(frozen=True)
class AlignedFeatures:
    """Rows of one table, one for each id in order, empty where the table had none."""

    frame: pd.DataFrame
    ids_without_row: int
    """Ids of events without a row in the table."""
    unused_rows: int
    """Rows of the table whose id no event has."""


def read_features(
    name: str,
    table: RawFeatureTable,
    fields: tuple[FeatureField, ...],
    ids: pd.Index,
    rejects: RejectWriter,
    block: int,
) -> AlignedFeatures:
    """Read a table, hand its bad rows to `rejects`, and align the rest to `ids`."""
    chunks = []
    for chunk in table.read(block):
        if table.inline:
            chunk = _distinct_inline_rows(table.key, chunk)  # noqa: PLW2901 the smaller one is all we need
        good, bad = check_features(table.key, fields, chunk)
        rejects.add(chunk.file, bad, name)
        chunks.append(good)
    whole = _concatenate(chunks, table)
    again = check_unique_ids(table.key, whole, table.inline)
    rejects.add(whole.file, again, name)
    frame = whole.frame.drop_duplicates(table.key).set_index(table.key, drop=False)
    found = frame.index.isin(ids)
    aligned = frame.reindex(ids)
    return AlignedFeatures(aligned, int((~ids.isin(frame.index)).sum()), int((~found).sum()))


def read_homes(schema: Schema, items: RawFeatureTable | None, block: int) -> pd.Series | None:
    """The entity that each item belongs to (index: items, empty text for none), where the schema has a `home`.

    Raises DataError where there is no table to tell.
    """
    if schema.home is None:
        return None
    if items is None:
        raise DataError(
            f"there is no item table with the feature '{schema.home}'",
            remedy="Name the table of the items under [files], or have the column in the events",
        )
    field = next(f for f in schema.item_features if f.name == schema.home)
    found = pd.DataFrame({"home": pd.Series(dtype="str")})
    for chunk in items.read(block):
        text = chunk.frame[[items.key, field.source]].astype("string").fillna("").astype("str")
        home = pd.DataFrame({"home": text[field.source].str.strip().to_numpy()}, index=text[items.key].str.strip())
        found = first_row_per_id([found, home])
    return found["home"]


def first_row_per_id(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """All parts together, of each id in their index the first row only."""
    whole = pd.concat(parts)
    return whole[~whole.index.duplicated()]


def _distinct_inline_rows(key: str, chunk: RowChunk) -> RowChunk:
    """Distinct rows of a table inside the events; rows without an id are reported with the events."""
    ids = chunk.frame[key].astype("str").str.strip()
    frame = chunk.frame.assign(**{key: ids})
    kept = ~frame.duplicated().to_numpy(bool) & (ids != "").to_numpy(bool)
    return RowChunk(chunk.file, frame[kept].reset_index(drop=True), chunk.lines[kept], fraction=chunk.fraction)


def _concatenate(chunks: list[RowChunk], table: RawFeatureTable) -> RowChunk:
    if not chunks:
        raise DataError("the file has a header but no rows", remedy="Leave the file out of the schema")
    frame = pd.concat([c.frame for c in chunks], ignore_index=True)
    lines = np.concatenate([c.lines for c in chunks])
    if table.inline:
        kept = ~frame.duplicated().to_numpy(bool)
        frame, lines = frame[kept].reset_index(drop=True), lines[kept]
    return RowChunk(chunks[0].file, frame, lines)


def encode_features(
    side: str, fields: tuple[FeatureField, ...], frame: pd.DataFrame, before: int
) -> tuple[dict[str, FeatureColumn], Mapping[str, pd.Index]]:
    """Columns with `before` empty rows first, and the vocabulary '<side>.<field>' of each field with ids."""
    table: dict[str, FeatureColumn] = {}
    spaces: dict[str, pd.Index] = {}
    for field in fields:
        cells = frame[field.source].reset_index(drop=True)
        cells = pd.concat([pd.Series([None] * before, dtype=cells.dtype), cells], ignore_index=True)
        index: pd.Index = pd.Index([], dtype="str")
        if field.kind != "numeric":
            index = build_vocabulary(field, cells)
            spaces[f"{side}.{field.name}"] = index
        table[field.name] = encode_column(field, cells, index)
    return table, spaces
