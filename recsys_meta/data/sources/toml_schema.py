"""Reader of the user's own data: files of any form described by a TOML schema, or RecBole's atomic files."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from recsys_meta.core.cells import LIST_MARK, value_text
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.core.schema import FeatureField, Objective, Schema, explain_errors, read_schema
from recsys_meta.data.build.prepare import prepare
from recsys_meta.data.geo.geo_columns import LOCAL_TIME_FIELDS, derive_columns, plan_derived
from recsys_meta.data.readers.byte_stream import is_ascii_compatible
from recsys_meta.data.readers.csv_reader import count_columns
from recsys_meta.data.readers.raw_tables import (
    BLOCK_BYTES,
    OnError,
    ProgressCallback,
    RawFeatureTable,
    RawTables,
    ReadChunks,
    RowChunk,
)
from recsys_meta.data.readers.row_filter import filter_rows
from recsys_meta.data.readers.table_layout import (
    explode_lists,
    melt_columns,
    number_rows,
    read_decimal_commas,
    split_lines,
)
from recsys_meta.data.readers.table_reader import read_layout, read_table
from recsys_meta.data.sources.file_options import PLACES, SchemaFiles, TableFile
from recsys_meta.data.sources.recbole import read_recbole
from recsys_meta.data.sources.registry import override_schema


def prepare_custom(
    path: Path | str,
    out: Path | str,
    on_error: OnError = "fail",
    progress: ProgressCallback | None = None,
    *,
    source: Path | None = None,
    objective: Objective | None = None,
    positive: float | None = None,
    block: int = BLOCK_BYTES,
) -> Dataset:
    """Prepare a user's data in the directory `out` and open it.

    `path` is a TOML schema, an .inter file, or a directory with an .inter file; `source` is the directory of a schema's
    files, where they do not lie beside it. `objective` and `positive` override the schema; `on_error`, `progress` and
    `block` are those of `prepare`. Raises ConfigError for a wrong schema and DataError for wrong data.
    """
    tables, unused_columns = read_custom(Path(path), source)
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


def read_custom(path: Path, source: Path | None = None) -> tuple[RawTables, tuple[str, ...]]:
    """Return the raw tables that a schema or an .inter file describes, and the columns that cannot be used.

    The files of a schema are looked for in `source`, or beside the schema. Raises ConfigError for a wrong schema, or
    for a `source` of what has its files beside it; DataError for a file that is missing or of another kind.
    """
    if path.is_dir() or path.suffix == ".inter":
        if source is not None:
            raise ConfigError(f"{path}: --source is for a schema; the files of an .inter file lie beside it")
        return read_recbole(path)
    if path.suffix != ".toml":
        remedy = "Write a TOML schema beside it that says what its columns mean (docs/data.md)"
        raise DataError("is neither a TOML schema nor an .inter file", file=path, remedy=remedy)
    schema, raw = read_schema(path, PLACES)
    try:
        files = SchemaFiles.model_validate(raw)
    except ValidationError as error:
        tables = dict.fromkeys(("events", "entities", "items"), tuple(TableFile.model_fields))
        keys = {"": tuple(SchemaFiles.model_fields), **tables}
        raise ConfigError(f"{path}: [files] {explain_errors(error, keys, PLACES)}") from None
    return build_tables(source or path.parent, schema, files), ()


def build_tables(folder: Path, schema: Schema, files: SchemaFiles) -> RawTables:
    """Return the raw tables in the files of a folder. Raises ConfigError, DataError as `read_custom`."""
    table = files.with_defaults(files.events)
    events = _EventFiles(schema, table, _expand_patterns(folder, table.paths))
    _check_encodings(files)
    # The header is read here only where columns may have to be derived; else no file is opened before it is used.
    may_derive = files.city_radius_km is not None or any(f.name in LOCAL_TIME_FIELDS for f in schema.context)
    columns = events.column_names() if may_derive else schema.event_columns
    plan = plan_derived(schema, files.city_radius_km, columns, files.entities is not None)
    derived_columns = plan.columns(schema)
    event_columns = [c for c in schema.event_columns if c not in derived_columns]
    entity_fields = () if files.city_radius_km else schema.entity_features
    item_fields = tuple(f for f in schema.item_features if f.source not in derived_columns)
    feature_files = [folder / path for one in (files.entities, files.items) if one for path in one.paths]
    tables = RawTables(
        schema=schema,
        events=events.read(event_columns),
        entities=_feature_table(folder, files, files.entities, events, schema.entity, entity_fields, None),
        items=_feature_table(folder, files, files.items, events, schema.item, item_fields, files.title),
        title=files.title,
        duplicates=files.duplicates,
        origin=tuple(str(p) for p in [*events.paths, *feature_files]),
        conditions=tuple(events.table.conditions),
    )
    return derive_columns(tables, plan)


def _check_encodings(files: SchemaFiles) -> None:
    for table in (files.events, files.entities, files.items):
        encoding = None if table is None else files.with_defaults(table).encoding
        try:
            is_ascii_compatible(encoding or "utf-8")
        except LookupError:
            raise ConfigError(f"[files] encoding '{encoding}' is not known; utf-8, latin-1 and utf-16 are") from None


def _expand_patterns(folder: Path, names: list[str]) -> list[Path]:
    paths: list[Path] = []
    for name in names:
        try:
            matches = sorted(folder.glob(name)) if any(c in name for c in "*?[") else [folder / name]
        except (ValueError, NotImplementedError, OSError):  # an absolute pattern, or one that is none
            matches = []
        if not matches:
            raise DataError("no file matches this", file=folder / name, remedy="Correct events under [files]")
        paths += matches
    if not paths:
        raise ConfigError("[files] events: no file is named")
    return paths


@dataclass(frozen=True)
class _EventFiles:
    """Files of events in any layout, and how they are read as a table with a row for each event."""

    schema: Schema
    table: TableFile
    paths: list[Path]

    def column_names(self) -> tuple[str, ...]:
        """Read the column names of the first file."""
        names, _ = read_layout(self.paths[0], self.table.form(), self.schema.event_columns)
        return (*names, *([self.table.row_number] if self.table.row_number else []))

    def read(self, columns: Sequence[str], list_separators: Mapping[str, str] | None = None) -> ReadChunks:
        """Return a reader of some columns of all files."""
        numeric = {c for c in (self.schema.label,) if c}
        fields = (*self.schema.context, *self.schema.entity_features, *self.schema.item_features)
        numeric |= {f.source for f in fields if f.kind == "numeric"}
        separators = {f.source: f.separator for f in self.schema.context} | dict(list_separators or {})
        return _chain_readers([self._reader(p, columns, separators, numeric) for p in self.paths])

    def _reader(
        self, path: Path, columns: Sequence[str], list_separators: Mapping[str, str], numeric: set[str]
    ) -> ReadChunks:
        match self.table.layout:
            case "rows":
                return _row_reader(path, columns, self.table, list_separators, numeric)
            case "wide":
                return self._wide_reader(path, columns, numeric)
            case "list":
                return self._list_reader(path, columns, list_separators, numeric)

    def _wide_reader(self, path: Path, columns: Sequence[str], numeric: set[str]) -> ReadChunks:
        """Return a reader of a table with a column for each item. Its header is read when the reader is used."""

        def read(block: int) -> Iterator[RowChunk]:
            table, schema = self.table, self.schema
            form = table.form()
            if table.columns is not None:
                width = count_columns(path, form.dialect)
                numbered = [str(i + 1) for i in range(width - len(table.columns))]
                table = table.model_copy(update={"columns": [*table.columns, *numbered]})
            names, _ = read_layout(path, table.form(), ())
            known = {c for c in columns if c not in (schema.item, schema.label)}
            items = [n for n in names if n not in {*schema.event_columns, *table.ignore, *table.where, *known}]
            if table.columns is not None and self.table.columns is not None:
                items = [n for n in items if n not in self.table.columns]
            if not items:
                raise DataError("no column is left for an item", file=path, line=1, remedy="Is the layout wide?")
            wanted = [c for c in columns if c not in (schema.item, schema.label)]
            reader = _row_reader(path, [*wanted, *items], table, {}, {*numeric, *items})
            missing = [value_text(v) for v in table.missing]
            yield from melt_columns(reader, items, schema.item, schema.label, missing)(block)

        return read

    def _list_reader(
        self, path: Path, columns: Sequence[str], list_separators: Mapping[str, str], numeric: set[str]
    ) -> ReadChunks:
        """Return a reader of a table with a list of items in a row: in a cell, or as the rest of a line."""
        table, schema = self.table, self.schema
        pair = None if table.pair_separator is None or schema.label is None else (table.pair_separator, schema.label)
        row_columns = [c for c in columns if pair is None or c != schema.label]
        others = [c for c in (schema.label, schema.time) if c and c in row_columns]
        if table.columns is not None and table.list_separator is None and table.format in (None, "csv"):
            lines = table.model_copy(
                update={"columns": [_LINE], "separator": _NO_SEPARATOR, "quotes": False, "row_number": None}
            )
            reader = split_lines(read_table(path, [_LINE], lines.form()), _LINE, table.columns, table.separator or " ")
            if table.row_number is not None:
                reader = number_rows(reader, table.row_number, table.first_line)
        else:
            separators = {**list_separators, **dict.fromkeys([schema.item, *others], LIST_MARK)}
            reader = _row_reader(path, row_columns, table, separators, numeric)
        return explode_lists(reader, schema.item, others, table.list_separator or "|", pair)


_LINE, _NO_SEPARATOR = "line", "\x1f"


def _row_reader(
    path: Path, columns: Sequence[str], table: TableFile, list_separators: Mapping[str, str], numeric: Collection[str]
) -> ReadChunks:
    """Return a reader of some columns of a file, of the rows that the table's conditions leave."""
    conditions = table.conditions
    columns = list(dict.fromkeys(columns))
    wanted = list(dict.fromkeys([*columns, *conditions]))
    own = [c for c in wanted if c != table.row_number]
    reader = read_table(path, own, table.form(), list_separators)
    if table.row_number is not None:
        reader = number_rows(reader, table.row_number, table.first_line)
    if table.decimal == ",":
        bounded = {name for name, c in conditions.items() if c.min is not None or c.max is not None}
        reader = read_decimal_commas(reader, {*numeric, *bounded})
    return filter_rows(reader, conditions, columns)


def _feature_table(
    folder: Path,
    files: SchemaFiles,
    table: TableFile | None,
    events: _EventFiles,
    key: str,
    fields: tuple[FeatureField, ...],
    title: str | None,
) -> RawFeatureTable | None:
    """Return the feature table in a file, or, without one, in the columns of the events; None without features."""
    if table is not None and table.key is not None:
        key = table.key
    columns = list(dict.fromkeys([key, *(f.source for f in fields), *([title] if title else [])]))
    separators = {f.source: LIST_MARK if f.kind == "multi" else f.separator for f in fields if f.source != title}
    separators |= {title: ", "} if title else {}
    if table is not None:
        table = files.with_defaults(table)
        numeric = {f.source for f in fields if f.kind == "numeric"}
        reader = _row_reader(folder / table.paths[0], columns, table, separators, numeric)
        return RawFeatureTable(key, reader, repeated=table.repeated)
    if len(columns) == 1:
        return None
    return RawFeatureTable(key, events.read(columns, separators), inline=True)


def _chain_readers(readers: list[ReadChunks]) -> ReadChunks:
    """Return a reader of several files as one table."""

    def read(block: int) -> Iterator[RowChunk]:
        for i, reader in enumerate(readers):
            for chunk in reader(block):
                fraction = (i + chunk.fraction) / len(readers)
                yield RowChunk(chunk.file, chunk.frame, chunk.lines, chunk.rejects, fraction)

    return read
