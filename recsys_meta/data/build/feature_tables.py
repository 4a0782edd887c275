"""Feature tables of entities and items, read whole and put in the order of the ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from recsys_meta.core.cells import category_cells, describe_mismatch, text_cells
from recsys_meta.core.dataset import FeatureColumn
from recsys_meta.core.errors import DataError
from recsys_meta.core.feature_encoding import build_vocabulary, encode_column
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.data.readers.raw_tables import RawFeatureTable, RowChunk
from recsys_meta.data.validation.rejects import RejectWriter
from recsys_meta.data.validation.row_checks import check_features, check_unique_ids


@dataclass(frozen=True)
class AlignedFeatures:
    """Rows of one table, one for each id in the order of the ids, empty where the table has none."""

    frame: pd.DataFrame
    ids_without_row: int
    """Number of ids of the events without a row in the table."""
    unused_rows: int
    """Number of rows of the table whose id no event has."""
    mismatch: str = ""
    """What is wrong where hardly an id of the events is in the table, with an example of each side; else empty."""


def read_features(
    name: str,
    table: RawFeatureTable,
    fields: tuple[FeatureField, ...],
    ids: pd.Index,
    rejects: RejectWriter,
    block: int,
) -> AlignedFeatures:
    """Read a table, pass its bad rows to `rejects`, and align the others to `ids`.

    Raises DataError if the table has no rows, or for the first bad row where `rejects` raises it.
    """
    chunks = []
    for chunk in table.read(block):
        if table.inline:
            chunk = _distinct_inline_rows(table.key, chunk)  # noqa: PLW2901 frees the larger chunk
        good, bad = check_features(table.key, fields, chunk)
        rejects.add(chunk.file, bad, name)
        chunks.append(good)
    whole = _concatenate(chunks, table)
    if table.repeated == "refuse":
        rejects.add(whole.file, check_unique_ids(table.key, whole, table.inline), name)
    keep: Literal["first", "last"] = "last" if table.repeated == "last" else "first"
    frame = whole.frame.drop_duplicates(table.key, keep=keep).set_index(table.key, drop=False)
    ids_without_row = int((~ids.isin(frame.index)).sum())
    unused_rows = int((~frame.index.isin(ids)).sum())
    mismatch = describe_mismatch(f"the ids of '{table.key}' in the events", ids, f"in {whole.file}", frame.index)
    return AlignedFeatures(frame.reindex(ids), ids_without_row, unused_rows, mismatch)


def read_homes(schema: Schema, items: RawFeatureTable | None, block: int) -> pd.Series | None:
    """Read the feature `home` of all items: a series of entities, indexed by item, empty text where there is none.

    None where the schema has no `home`. Raises DataError if there is no item table to read it from.
    """
    if schema.home is None:
        return None
    if items is None:
        raise DataError(
            f"there is no item table with the feature '{schema.home}'",
            remedy="Name the table of the items under [files], or have the column in the events",
        )
    field = next(f for f in schema.item_features if f.name == schema.home)
    homes = pd.DataFrame({"home": pd.Series(dtype="str")})
    for chunk in items.read(block):
        home = pd.DataFrame(
            {"home": category_cells(chunk.frame[field.source]).to_numpy()}, index=text_cells(chunk.frame[items.key])
        )
        homes = first_row_per_id([homes, home])
    return homes["home"]


def first_row_per_id(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate frames that are indexed by id, with only the first row of each id."""
    whole = pd.concat(parts)
    return whole[~whole.index.duplicated()]


def _distinct_inline_rows(key: str, chunk: RowChunk) -> RowChunk:
    """Return the distinct rows of a feature table whose columns stand in the events.

    Rows without an id are left out; the check of the events rejects them.
    """
    ids = text_cells(chunk.frame[key])
    frame = chunk.frame.assign(**{key: ids})
    distinct = ~frame.duplicated().to_numpy(bool) & (ids != "").to_numpy(bool)
    return RowChunk(chunk.file, frame[distinct].reset_index(drop=True), chunk.lines[distinct], fraction=chunk.fraction)


def _concatenate(chunks: list[RowChunk], table: RawFeatureTable) -> RowChunk:
    if not chunks:
        raise DataError("the file has a header but no rows", remedy="Leave the file out of the schema")
    frame = pd.concat([c.frame for c in chunks], ignore_index=True)
    lines = np.concatenate([c.lines for c in chunks])
    if table.inline:
        distinct = ~frame.duplicated().to_numpy(bool)
        frame, lines = frame[distinct].reset_index(drop=True), lines[distinct]
    return RowChunk(chunks[0].file, frame, lines)


def encode_features(
    table_name: str, fields: tuple[FeatureField, ...], frame: pd.DataFrame, reserved: int
) -> tuple[dict[str, FeatureColumn], Mapping[str, pd.Index]]:
    """Encode a feature table: name -> column, and the vocabulary '<table_name>.<field>' of each field with ids.

    `table_name` is "entity" or "item". Columns begin with `reserved` empty rows, those of the reserved ids.
    """
    table: dict[str, FeatureColumn] = {}
    spaces: dict[str, pd.Index] = {}
    for field in fields:
        cells = frame[field.source].reset_index(drop=True)
        cells = pd.concat([pd.Series([None] * reserved, dtype=cells.dtype), cells], ignore_index=True)
        index: pd.Index = pd.Index([], dtype="str")
        if field.kind != "numeric":
            index = build_vocabulary(field, cells)
            spaces[f"{table_name}.{field.name}"] = index
        table[field.name] = encode_column(field, cells, index)
    return table, spaces
