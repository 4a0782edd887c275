"""Reader of the user's own data: CSV, CSV.gz or Parquet described by a TOML schema, or RecBole's atomic files."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.core.feature_encoding import LIST_MARK
from recsys_meta.core.schema import FeatureField, Objective, Schema, explain_errors, read_schema
from recsys_meta.data.build.prepare import prepare
from recsys_meta.data.geo.geo_columns import LOCAL_TIME_FIELDS, derive_columns, plan_derived
from recsys_meta.data.readers.csv_reader import CsvDialect, read_csv, read_header
from recsys_meta.data.readers.parquet_reader import read_column_names, read_parquet
from recsys_meta.data.readers.raw_tables import (
    BLOCK_BYTES,
    Duplicates,
    OnError,
    ProgressCallback,
    RawFeatureTable,
    RawTables,
    ReadChunks,
    RowChunk,
)
from recsys_meta.data.sources.recbole import read_recbole
from recsys_meta.data.sources.registry import override_schema

PARQUET_SUFFIXES = (".parquet", ".pq")
"""Endings of Parquet files; all others are read as text."""


class SchemaFiles(BaseModel):
    """Table [files] of a schema; paths are relative to the directory of the schema.

    `events` may be a list or a pattern such as "part-*.parquet". Without `entities` or `items` the features of these
    are columns of the events. `title` is the column of the items with names for display. With `city_radius_km` the
    entities are cities made from the coordinates of the items.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: str | list[str]
    entities: str | None = None
    items: str | None = None
    separator: str | None = Field(default=None, min_length=1)
    encoding: str = "utf-8"
    quotes: bool = True
    duplicates: Duplicates = "refuse"
    title: str | None = None
    city_radius_km: float | None = Field(default=None, ge=1, le=1000)


def prepare_custom(
    path: Path | str,
    out: Path | str,
    on_error: OnError = "fail",
    progress: ProgressCallback | None = None,
    *,
    objective: Objective | None = None,
    positive: float | None = None,
    block: int = BLOCK_BYTES,
) -> Dataset:
    """Prepare a user's data in the directory `out` and open it.

    `path` is a TOML schema, an .inter file, or a directory with an .inter file. `objective` and `positive` override the
    schema; `on_error`, `progress` and `block` are those of `prepare`. Raises ConfigError for a wrong schema and
    DataError for wrong data.
    """
    tables, unused_columns = read_custom(Path(path))
    about = {"name": tables.schema.name, "unused_columns": list(unused_columns)}
    return prepare(override_schema(tables, objective, positive), Path(out), on_error, progress, about, block)


def find_schema(path: Path) -> Path | None:
    """Return what describes a user's data: a TOML schema or an .inter file, itself or in a directory.

    In a directory with several .toml files, such as recipes, the schema is the one with a table [files]. None where
    there is nothing of the kind. Raises ConfigError for a directory with several schemas, or .toml files but no schema.
    """
    if path.is_file():
        return path if path.suffix in (".toml", ".inter") else None
    candidates = sorted(path.glob("*.toml"))
    if len(candidates) > 1:
        schemas = [c for c in candidates if _has_files_table(c)]
        if len(schemas) != 1:
            names = ", ".join(c.name for c in schemas or candidates)
            raise ConfigError(f"{path}: {len(schemas)} schemas with a table [files] ({names}); give the file of one")
        return schemas[0]
    return next(iter(candidates or sorted(path.glob("*.inter"))), None)


def _has_files_table(path: Path) -> bool:
    try:
        return isinstance(tomllib.loads(path.read_text(encoding="utf-8")).get("files"), dict)
    except (OSError, ValueError):  # a TOMLDecodeError and a UnicodeDecodeError are ValueErrors
        return False


def read_custom(path: Path) -> tuple[RawTables, tuple[str, ...]]:
    """Return the raw tables that a schema or an .inter file describes, and the columns that cannot be used.

    Raises ConfigError for a wrong schema and DataError for a file that is missing or of another kind.
    """
    if path.is_dir() or path.suffix == ".inter":
        return read_recbole(path)
    if path.suffix != ".toml":
        remedy = "Write a TOML schema beside it that says what its columns mean (docs/data.md)"
        raise DataError("is neither a TOML schema nor an .inter file", file=path, remedy=remedy)
    schema, raw = read_schema(path)
    try:
        files = SchemaFiles.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: [files] {explain_errors(error)}") from None
    return _build_tables(path.parent, schema, files), ()


def _build_tables(folder: Path, schema: Schema, files: SchemaFiles) -> RawTables:
    _check_encoding(files)
    events = _expand_patterns(folder, [files.events] if isinstance(files.events, str) else files.events)
    # The header is read here only where columns may have to be derived; else no file is opened before it is used.
    may_derive = files.city_radius_km is not None or any(f.name in LOCAL_TIME_FIELDS for f in schema.context)
    columns = _read_columns(events[0], files) if may_derive else schema.event_columns
    plan = plan_derived(schema, files.city_radius_km, columns, files.entities is not None)
    derived_columns = plan.columns(schema)
    event_columns = [c for c in schema.event_columns if c not in derived_columns]
    entity_fields = () if files.city_radius_km else schema.entity_features
    item_fields = tuple(f for f in schema.item_features if f.source not in derived_columns)
    feature_files = [folder / name for name in (files.entities, files.items) if name]
    tables = RawTables(
        schema=schema,
        events=_chain_readers([_reader(p, event_columns, files) for p in events]),
        entities=_feature_table(folder, files, files.entities, events, schema.entity, entity_fields, None),
        items=_feature_table(folder, files, files.items, events, schema.item, item_fields, files.title),
        title=files.title,
        duplicates=files.duplicates,
        origin=tuple(str(p) for p in [*events, *feature_files]),
    )
    return derive_columns(tables, plan)


def _read_columns(path: Path, files: SchemaFiles) -> tuple[str, ...]:
    """Read the column names of a file."""
    return read_column_names(path) if path.suffix in PARQUET_SUFFIXES else read_header(path, _dialect(files))


def _check_encoding(files: SchemaFiles) -> None:
    try:
        ascii_compatible = "\n,".encode(files.encoding) == b"\n,"
    except LookupError:
        ascii_compatible = False
    if not ascii_compatible:
        raise ConfigError(f"[files] encoding '{files.encoding}' cannot be read; save the files as utf-8 or latin-1")


def _expand_patterns(folder: Path, names: list[str]) -> list[Path]:
    paths: list[Path] = []
    for name in names:
        matches = sorted(folder.glob(name)) if any(c in name for c in "*?[") else [folder / name]
        if not matches:
            raise DataError("no file matches this", file=folder / name, remedy="Correct events under [files]")
        paths += matches
    if not paths:
        raise ConfigError("[files] events: no file is named")
    return paths


def _feature_table(
    folder: Path,
    files: SchemaFiles,
    name: str | None,
    events: list[Path],
    key: str,
    fields: tuple[FeatureField, ...],
    title: str | None,
) -> RawFeatureTable | None:
    """Return the feature table in the file `name`, or, without a name, in the columns of the events; None without
    features."""
    columns = list(dict.fromkeys([key, *(f.source for f in fields), *([title] if title else [])]))
    separators = {f.source: LIST_MARK for f in fields if f.kind == "multi" and f.source != title}
    if name is not None:
        return RawFeatureTable(key, _reader(folder / name, columns, files, separators))
    if len(columns) == 1:
        return None
    return RawFeatureTable(key, _chain_readers([_reader(p, columns, files, separators) for p in events]), inline=True)


def _reader(
    path: Path, columns: Sequence[str], files: SchemaFiles, list_separators: dict[str, str] | None = None
) -> ReadChunks:
    if path.suffix in PARQUET_SUFFIXES:
        return read_parquet(path, columns, list_separators)
    return read_csv(path, columns, _dialect(files))


def _dialect(files: SchemaFiles) -> CsvDialect:
    return CsvDialect(files.separator, quotes=files.quotes, encoding=files.encoding)


def _chain_readers(readers: list[ReadChunks]) -> ReadChunks:
    """Return a reader of several files as one table."""

    def read(block: int) -> Iterator[RowChunk]:
        for i, reader in enumerate(readers):
            for chunk in reader(block):
                fraction = (i + chunk.fraction) / len(readers)
                yield RowChunk(chunk.file, chunk.frame, chunk.lines, chunk.rejects, fraction)

    return read
