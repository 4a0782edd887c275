"""Data in pandas frames: written as Parquet and read like any other file, so that a frame means what its file would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import ValidationError

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.core.schema import FeatureField, Schema, explain_errors, read_schema
from recsys_meta.data.build.prepare import prepare
from recsys_meta.data.readers.raw_tables import OnError, ProgressCallback
from recsys_meta.data.sources.file_options import SchemaFiles
from recsys_meta.data.sources.toml_schema import build_tables


def make_schema(schema: Schema | Mapping[str, Any] | str | Path) -> Schema:
    """Return a schema, built from a TOML schema or a mapping laid out like one. Raises ConfigError that names every
    wrong key."""
    if isinstance(schema, Schema):
        return schema
    if isinstance(schema, str | Path):
        return read_schema(Path(schema))[0]
    if not isinstance(schema, Mapping):
        raise ConfigError(f"schema: a {type(schema).__name__}, not a mapping laid out like a TOML schema")
    try:
        return Schema.model_validate(dict(schema))
    except ValidationError as error:
        fields = dict.fromkeys(("entity_features", "item_features", "context"), tuple(FeatureField.model_fields))
        raise ConfigError(f"schema: {explain_errors(error, {'': tuple(Schema.model_fields), **fields})}") from None


def prepare_frames(
    schema: Schema,
    out: Path,
    events: pd.DataFrame,
    items: pd.DataFrame | None = None,
    entities: pd.DataFrame | None = None,
    *,
    title: str | None = None,
    on_error: OnError = "fail",
    progress: ProgressCallback | None = None,
) -> Dataset:
    """Prepare a data set from frames in the directory `out` and open it.

    Columns are those that the schema names; others are not read. Without frames of items or entities their features are
    columns of the events. `title` is the column of the items with names for display. Raises DataError, which names the
    frame and the row, for wrong data.
    """
    frames = {"events": events, "items": items, "entities": entities}
    with TemporaryDirectory() as name, _frames_named(Path(name)):
        folder = Path(name)
        files: dict[str, Any] = {} if title is None else {"title": title}
        for table, frame in frames.items():
            if frame is not None:
                write_frame(frame, folder / f"{table}.parquet")
                files[table] = f"{table}.parquet"
        tables = build_tables(folder, schema, SchemaFiles.model_validate(files))
        tables = replace(tables, origin=tuple(f"frame of {table}" for table in files if table in frames))
        return prepare(tables, out, on_error, progress, {"name": schema.name})


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as Parquet, without its index. Raises DataError where its columns cannot be written."""
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"is a {type(frame).__name__}, not a pandas DataFrame", file=path)
    columns = [(str(name), cells) for name, cells in frame.items() if isinstance(name, str) and cells.dtype == object]
    mixed = {name: _as_text(cells) for name, cells in columns if _is_mixed(cells)}
    try:
        frame.assign(**mixed).to_parquet(path, index=False)
    except (pa.ArrowException, ValueError, TypeError) as error:
        problem = str(error.args[0] if error.args else error).splitlines()[0]
        raise DataError(
            problem, file=path, remedy="Give each column a name of its own, and cells of one type"
        ) from None


def _is_mixed(cells: pd.Series) -> bool:
    """Return whether cells are of several types, which Parquet cannot hold."""
    return bool(pd.api.types.infer_dtype(cells, skipna=True).startswith("mixed")) and not _has_lists(cells)


def _has_lists(cells: pd.Series) -> bool:
    return any(isinstance(cell, list | tuple | np.ndarray) for cell in cells)


def _as_text(cells: pd.Series) -> pd.Series:
    """Return cells as text, which the checks of rows read; a missing one stays missing."""
    return cells.map(str, na_action="ignore")


@contextmanager
def _frames_named(folder: Path) -> Iterator[None]:
    """Name frames, not the files that they were written to, in what is raised."""
    try:
        yield
    except DataError as error:
        file = None if error.file is None else Path(str(error.file))
        if file is None or file.parent != folder:
            raise
        where = f"frame of {file.stem}"
        raise DataError(error.problem, file=where, line=error.line, field=error.field, remedy=error.remedy) from None
