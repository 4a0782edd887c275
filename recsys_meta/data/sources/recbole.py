"""RecBole's atomic files: NAME.inter, NAME.user and NAME.item, tab-separated, with types in the header.

A header is for example `user_id:token<TAB>item_id:token<TAB>rating:float<TAB>timestamp:float`. A token becomes a
categorical field, a token_seq (values joined by blanks) a multi-valued one, a float a numeric one. The schema has no
kind for a float_seq, so it is left out and listed by `describe` as an unused column.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.data.readers.csv_reader import CsvDialect, read_csv, read_header
from recsys_meta.data.readers.raw_tables import RawFeatureTable, RawTables

_KINDS = {"token": "categorical", "token_seq": "multi", "float": "numeric"}
_LABELS = ("rating", "label", "click")
_TITLES = ("title", "movie_title", "name")
_DIALECT = CsvDialect("\t", quotes=False, rename=lambda name: name.partition(":")[0])


def read_recbole(path: Path) -> tuple[RawTables, tuple[str, ...]]:
    """Return the raw tables of an .inter file, or of the only one in a directory, and the columns that are not used.

    The columns user_id and item_id are the entity and the item; without them these are the first and the second column
    of the .inter file. A float column named rating, label or click is the label, one named timestamp the time. Raises
    DataError if there is no such file, or if its header is wrong.
    """
    inter = _find_inter_file(path)
    columns = _read_column_types(inter)
    entity = "user_id" if "user_id" in columns else next(iter(columns))
    item = "item_id" if "item_id" in columns else next(c for c in columns if c != entity)
    label = next((c for c in _LABELS if columns.get(c) == "float"), None)
    time = "timestamp" if columns.get("timestamp") == "float" else None
    user_file, user_types = _find_feature_file(inter, ".user", entity)
    item_file, item_types = _find_feature_file(inter, ".item", item)
    user_fields, item_fields = _feature_fields(user_types, entity), _feature_fields(item_types, item)
    schema = Schema(
        name=inter.stem,
        objective="click" if label in ("label", "click") else "ranking",
        entity=entity,
        item=item,
        label=label,
        time=time,
        entity_features=user_fields,
        item_features=item_fields,
    )
    event_columns = [c for c in (entity, item, label, time) if c]
    title = next((t for t in _TITLES if t in item_types), None)
    tables = RawTables(
        schema=schema,
        events=read_csv(inter, event_columns, _DIALECT),
        entities=_feature_table(user_file, entity, user_fields),
        items=_feature_table(item_file, item, item_fields, title),
        title=title,
        origin=tuple(str(p) for p in (inter, user_file, item_file) if p),
    )
    unused_columns = [c for c in columns if c not in event_columns]
    unused_columns += [c for types in (user_types, item_types) for c, kind in types.items() if kind not in _KINDS]
    return tables, tuple(unused_columns)


def _find_inter_file(path: Path) -> Path:
    if not path.exists():
        raise DataError("no such file or directory", file=path, remedy="Give an .inter file or its directory")
    if path.is_file():
        return path
    files = sorted(path.glob("*.inter"))
    if len(files) != 1:
        problem = f"holds {len(files)} .inter files where one is expected"
        raise DataError(problem, file=path, remedy="Name the .inter file itself")
    return files[0]


def _find_feature_file(inter: Path, suffix: str, key: str) -> tuple[Path | None, Mapping[str, str]]:
    """Return the feature file beside an .inter file and its column types; without one, None and the type of the key."""
    file = inter.with_suffix(suffix)
    return (file, _read_column_types(file)) if file.is_file() else (None, {key: "token"})


def _read_column_types(path: Path) -> dict[str, str]:
    """Read the header of a file: column name -> type. Raises DataError for an unknown type."""
    header = read_header(path, CsvDialect("\t", quotes=False))
    columns = dict(c.partition(":")[::2] for c in header)
    for name, kind in columns.items():
        if kind not in (*_KINDS, "float_seq"):
            problem = f"the type {kind!r} is not one of {', '.join(_KINDS)}, float_seq"
            raise DataError(
                problem, file=path, line=1, field=name, remedy="Write the header as name:type, tabs between"
            )
    if len(columns) < 2 and path.suffix == ".inter":
        raise DataError("fewer than two columns", file=path, line=1, remedy="Put tabs between the columns")
    return columns


def _feature_fields(columns: Mapping[str, str], key: str) -> tuple[FeatureField, ...]:
    names = {c: "".join(x if x.isalnum() or x in "_-" else "_" for x in c) for c in columns}
    return tuple(
        FeatureField.model_validate({"name": names[c], "kind": _KINDS[kind], "column": c, "separator": " "})
        for c, kind in columns.items()
        if c != key and kind in _KINDS
    )


def _feature_table(
    file: Path | None, key: str, fields: tuple[FeatureField, ...], title: str | None = None
) -> RawFeatureTable | None:
    if file is None:
        return None
    columns = dict.fromkeys([key, *(f.source for f in fields), *([title] if title else [])])
    return RawFeatureTable(key, read_csv(file, list(columns), _DIALECT))
