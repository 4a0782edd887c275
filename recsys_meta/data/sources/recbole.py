"""RecBole's atomic files: NAME.inter, NAME.user and NAME.item, tab-separated, with types in the header.

A header reads `user_id:token<TAB>item_id:token<TAB>rating:float<TAB>timestamp:float`. A token becomes a
categorical field, a token_seq (words joined by blanks) a multi-valued one, a float a number; a float_seq has no
place in the schema and is left out, which `describe` says.
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
    """The tables of an .inter file, or of the one in a directory, and the columns that were left out.

    The first column of .inter is the entity, the second the item, as in RecBole's own data sets unless they are
    called user_id and item_id. A column named rating, label or click is the label; timestamp is the time.
    """
    inter = _find_inter_file(path)
    columns = _read_column_types(inter)
    entity = "user_id" if "user_id" in columns else next(iter(columns))
    item = "item_id" if "item_id" in columns else next(c for c in columns if c != entity)
    label = next((c for c in _LABELS if columns.get(c) == "float"), None)
    time = "timestamp" if columns.get("timestamp") == "float" else None
    sides = {}
    for ending, key in ((".user", entity), (".item", item)):
        file = inter.with_suffix(ending)
        sides[ending] = (file, _read_column_types(file)) if file.is_file() else (None, {key: "token"})
    fields = {
        ending: _feature_fields(known, key)
        for (ending, (_, known)), key in zip(sides.items(), (entity, item), strict=True)
    }
    schema = Schema(
        name=inter.stem,
        objective="click" if label in ("label", "click") else "ranking",
        entity=entity,
        item=item,
        label=label,
        time=time,
        entity_features=fields[".user"],
        item_features=fields[".item"],
    )
    used = [c for c in (entity, item, label, time) if c]
    title = next((t for t in _TITLES if t in sides[".item"][1]), None)
    tables = RawTables(
        schema=schema,
        events=read_csv(inter, used, _DIALECT),
        entities=_feature_table(sides[".user"][0], entity, fields[".user"]),
        items=_feature_table(sides[".item"][0], item, fields[".item"], title),
        title=title,
        origin=tuple(str(p) for p in (inter, sides[".user"][0], sides[".item"][0]) if p),
    )
    unused = [c for c in columns if c not in used]
    unused += [c for _, known in sides.values() for c, kind in known.items() if kind not in _KINDS]
    return tables, tuple(unused)


def _find_inter_file(path: Path) -> Path:
    if not path.exists():
        raise DataError("no such file or directory", file=path, remedy="Give an .inter file or its directory")
    if path.is_file():
        return path
    found = sorted(path.glob("*.inter"))
    if len(found) != 1:
        problem = f"holds {len(found)} .inter files where one is expected"
        raise DataError(problem, file=path, remedy="Name the .inter file itself")
    return found[0]


def _read_column_types(path: Path) -> dict[str, str]:
    """Column -> type, from the header."""
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
    named = {c: "".join(x if x.isalnum() or x in "_-" else "_" for x in c) for c in columns}
    return tuple(
        FeatureField.model_validate({"name": named[c], "kind": _KINDS[kind], "column": c, "separator": " "})
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
