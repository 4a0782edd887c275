"""Prepared data sets on disk: the layout of the directory, and how it is opened.

dataset.json                          schema, counts, digest, origin, bytes and sha256 of every file
events.{indptr,item,label,time}.npy   see `recsys_meta.core.dataset.Events`
events.{actor,group}.npy              numbers of actors and groups, where the schema has them; their names are not kept
events.context.<field>.npy            padded ids of 'context.<field>', or numbers
entity.<field>.{values,indptr}.npy    feature table of the entities; numeric features have no indptr
item.<field>.{values,indptr}.npy      feature table of the items, the first two rows empty
vocab.parquet                         space, id, value
titles.parquet                        item, title: for display, where the data have titles
rejects.csv                           bad rows that were left out, with the reason
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pyarrow.lib import ArrowException
from pydantic import ValidationError

from recsys_meta.core.arrays import FIRST
from recsys_meta.core.atomic_io import load_checksummed, sha256
from recsys_meta.core.dataset import Dataset, Events, FeatureColumn, Vocabulary, add_arrival
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import Schema, explain_errors
from recsys_meta.data.build.id_encoding import CONTEXT_PREFIX
from recsys_meta.data.build.npy_columns import read_column

FORMAT_VERSION = 1
PREPARE_AGAIN = "Prepare the data set again"


def open_dataset(directory: Path | str, verify: bool = False) -> Dataset:
    """Open a prepared data set; its arrays are memory-mapped, so they are read from disk on use.

    The sizes of all files are checked, with `verify` their hashes too. `about` has "titles" (item -> title) where the
    data have titles. Raises DataError if the directory is missing, damaged or of another format.
    """
    folder = Path(directory)
    description = _read_description(folder)
    _check_files(folder, description["files"], verify)
    schema = _schema(folder, description)
    events = _events(folder, schema, description["files"])
    vocab = _vocabulary(folder, description["spaces"])
    entities = _feature_table(folder, "entity", description["columns"]["entity"])
    data = Dataset(
        schema=schema,
        events=events,
        entities=add_arrival(entities, events) if schema.arrival else entities,
        items=_feature_table(folder, "item", description["columns"]["item"]),
        vocab=vocab,
        digest=description["digest"],
        about={**description["about"], **_titles(folder, description["files"])},
    )
    _check_shape(folder, data)
    return data


def _events(folder: Path, schema: Schema, files: Mapping[str, object]) -> Events:
    def column(name: str) -> np.ndarray[Any, np.dtype[Any]] | None:
        return _map_array(folder, f"events.{name}") if f"events.{name}.npy" in files else None

    return Events(
        _map_array(folder, "events.indptr"),
        _map_array(folder, "events.item"),
        _map_array(folder, "events.label"),
        column("time"),
        {f.name: _map_array(folder, f"events.{CONTEXT_PREFIX}{f.name}") for f in schema.context},
        column("actor"),
        column("group"),
    )


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    try:
        description = load_checksummed(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        remedy = "Make one with `recsys-meta data prepare`"
        raise DataError("no prepared data set is here", file=folder, remedy=remedy) from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", file=path, remedy=PREPARE_AGAIN) from None
    required_keys = {"format", "schema", "digest", "files", "columns", "spaces", "about"}
    if not required_keys <= set(description):
        raise DataError("does not describe a data set", file=path, remedy=PREPARE_AGAIN)
    if description["format"] != FORMAT_VERSION:
        problem = f"has format {description['format']}, this version reads {FORMAT_VERSION}"
        raise DataError(problem, file=path, remedy=PREPARE_AGAIN)
    return description


def _schema(folder: Path, description: Mapping[str, Any]) -> Schema:
    try:
        return Schema.model_validate(description["schema"])
    except ValidationError as error:
        raise DataError(explain_errors(error), file=folder / "dataset.json", remedy=PREPARE_AGAIN) from None


def _check_files(folder: Path, files: Mapping[str, Mapping[str, Any]], verify: bool) -> None:
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise DataError("the file is missing", file=path, remedy=PREPARE_AGAIN)
        if (size := path.stat().st_size) != entry["bytes"]:
            problem = f"has {size:,} bytes where {entry['bytes']:,} were written"
            raise DataError(problem, file=path, remedy=PREPARE_AGAIN)
        if verify and sha256(path) != entry["sha256"]:
            raise DataError("its content is not what was written", file=path, remedy=PREPARE_AGAIN)


def _check_shape(folder: Path, data: Dataset) -> None:
    events, rows = data.events, len(data.events.item)
    entities = len(data.vocab.values.get("entity", ()))
    consistent = events.indptr.shape == (entities + 1,) and int(events.indptr[-1]) == rows == len(events.label)
    consistent = consistent and all(len(c) == rows for c in (events.time, events.actor, events.group) if c is not None)
    consistent = consistent and all(len(c) == rows for c in events.context.values())
    consistent = consistent and all(len(c) == entities for c in data.entities.values())
    consistent = consistent and all(len(c) == data.catalogue for c in data.items.values())
    if not consistent:
        raise DataError("its columns do not fit together", file=folder, remedy=PREPARE_AGAIN)


def _map_array(folder: Path, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    return read_column(folder / f"{name}.npy")


def _feature_table(folder: Path, table_name: str, columns: list[Mapping[str, Any]]) -> dict[str, FeatureColumn]:
    table = {}
    for column in columns:
        name = f"{table_name}.{column['name']}"
        indptr = None if column["numeric"] else _map_array(folder, f"{name}.indptr")
        table[column["name"]] = FeatureColumn(
            column["name"], _map_array(folder, f"{name}.values"), indptr, column["size"]
        )
    return table


def _read_frame(path: Path) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pq.read_table(path).to_pandas()
    except (ArrowException, OSError) as error:
        raise DataError(f"the file is damaged: {error}", file=path, remedy=PREPARE_AGAIN) from None
    return frame


def _vocabulary(folder: Path, spaces: list[str]) -> Vocabulary:
    frame = _read_frame(folder / "vocab.parquet")
    groups = {str(space): part["value"] for space, part in frame.groupby("space", sort=False)}
    empty = pd.Series(dtype="str")
    return Vocabulary({space: pd.Index(groups.get(space, empty), dtype="str") for space in spaces})


def vocabulary_frame(spaces: Mapping[str, pd.Index]) -> pd.DataFrame:
    """Build the table that vocab.parquet holds, with the columns space, id (padded) and value."""
    parts = [
        pd.DataFrame({"space": space, "id": np.arange(FIRST, len(v) + FIRST, dtype=np.int32), "value": v.astype("str")})
        for space, v in spaces.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _titles(folder: Path, files: Mapping[str, object]) -> dict[str, object]:
    if "titles.parquet" not in files:
        return {}
    frame = _read_frame(folder / "titles.parquet")
    return {"titles": dict(zip(frame["item"], frame["title"], strict=True))}
