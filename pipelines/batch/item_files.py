"""Item files: tables of any form with an id, perhaps a title and availability, and features in the other columns.

They are read by the readers of the preparation, and what a row says is what a call of the API would say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from recsys_meta.core.cells import BOOLEAN_WORDS, LIST_MARK, id_cells, is_missing, list_values, value_text
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import FeatureField, explain_errors
from recsys_meta.data.readers.byte_stream import require_file
from recsys_meta.data.readers.raw_tables import RowChunk
from recsys_meta.data.readers.table_reader import TableForm, detect_form, read_layout, read_table
from recsys_meta.inference.requests.feature_check import check_features, known_features
from recsys_meta.models.bundle import Bundle
from recsys_meta.store.items.items import NewItem
from recsys_meta.wire.requests import ItemInput

BLOCK_BYTES = 4 * 2**20
"""Bytes of a file that are read at a time."""

ROLES = ("id", "title", "available")
"""Columns that are no features, by the names that the API has for them."""

FEATURES_COLUMN = "features"
"""The column that may hold an object of features, in JSON and Parquet."""

_AVAILABLE = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class ItemLayout:
    """Columns of an item file: of each role and feature, its column; `form` of the file; `fields` of live models by
    name."""

    path: Path
    form: TableForm
    roles: Mapping[str, str]
    features: Mapping[str, str]
    fields: Mapping[str, FeatureField]

    def read(self) -> Iterator[RowChunk]:
        """Read the rows, in parts. Raises DataError for a file that cannot be used as a whole."""
        separators = {column: _list_separator(self.fields.get(name)) for name, column in self.features.items()}
        columns = list(dict.fromkeys((*self.roles.values(), *self.features.values())))
        yield from read_table(self.path, columns, self.form, separators)(BLOCK_BYTES)


def _list_separator(one: FeatureField | None) -> str:
    """Return what joins the values of a list in a cell, as where a request has one."""
    if one is None or one.kind == "multi":
        return LIST_MARK
    return " " if one.kind == "text" else one.separator


@dataclass(frozen=True)
class BadRow:
    """A row that is refused, and why."""

    line: int
    field: str
    reason: str


@dataclass(frozen=True)
class ItemRows:
    """Items of a part of a file, and its bad rows."""

    items: list[NewItem] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


def item_layout(path: Path, bundles: Sequence[Bundle], only: Collection[str] | None = None) -> ItemLayout:
    """Read the columns of a file for the models of a kind; `only` some features are read where they are named.

    Raises DataError where there is no id, and for a column that is the feature of no model.
    """
    require_file(path)
    fields = {name: f for bundle in bundles[::-1] for name, f in known_features(bundle.schema, "item").items()}
    own_ids = list(dict.fromkeys(bundle.schema.item for bundle in bundles))
    names, form = read_layout(
        path, detect_form(path), (*ROLES, *own_ids, *fields, *(f.source for f in fields.values()))
    )
    roles = {role: role for role in ROLES if role in names}
    identity = next((name for name in ("id", "item", *own_ids) if name in names), None)
    if identity is None:
        remedy = f"Name a column id, item{''.join(f' or {n}' for n in own_ids if n != 'item')}. Found: "
        raise DataError("there is no such column", file=path, field="id", remedy=remedy + ", ".join(names[:40]))
    roles["id"] = identity
    features = _feature_columns([n for n in names if n not in roles.values()], fields, form.format != "csv")
    if only is not None:
        features = _only(path, features, only)
    if bundles and (unknown := [name for name in features if name not in fields]):
        known = ", ".join(sorted(fields)) or "none"
        remedy = f"Known features: {known}. Say with --features which columns are some"
        raise DataError("no model has such a feature", file=path, line=1, field=unknown[0], remedy=remedy)
    return ItemLayout(path, form, roles, features, fields)


def _feature_columns(names: Sequence[str], fields: Mapping[str, FeatureField], nested: bool) -> dict[str, str]:
    """Return the column of each feature: of its own name, of the name that the data of a model have for it, or a key of
    the object `features`."""
    by_source = {f.source: name for name, f in fields.items() if f.source not in fields}
    columns: dict[str, str] = {}
    for column in names:
        if nested and (column == FEATURES_COLUMN or "." in column):
            head, _, inner = column.partition(".")
            if head == FEATURES_COLUMN and inner:
                columns[inner] = column
            continue
        columns.setdefault(by_source.get(column, column), column)
    return columns


def _only(path: Path, features: Mapping[str, str], only: Collection[str]) -> dict[str, str]:
    missing = [name for name in only if name not in features]
    if missing:
        remedy = f"The file has: {', '.join(features) or 'none'}"
        raise DataError("there is no such column of features", file=path, line=1, field=missing[0], remedy=remedy)
    return {name: column for name, column in features.items() if name in only}


def read_items(layout: ItemLayout, bundles: Sequence[Bundle]) -> Iterator[ItemRows]:
    """Read the items of a file in parts, each row checked as the API checks an item. Raises DataError for a file that
    cannot be used as a whole."""
    for chunk in layout.read():
        part = ItemRows(bad=[_unsplit(row) for _, row in chunk.rejects.iterrows()])
        ids = _ids(layout, chunk.frame[layout.roles["id"]]).tolist()
        cells = {name: chunk.frame[column].tolist() for name, column in _columns(layout).items()}
        for row, line in enumerate(np.asarray(chunk.lines).tolist()):
            try:
                part.items.append(_item(layout, bundles, ids[row], {name: one[row] for name, one in cells.items()}))
            except DataError as error:
                remedy = f". {error.remedy}" if error.remedy else ""
                part.bad.append(BadRow(line, error.field or "id", error.problem + remedy))
        part.bad.sort(key=lambda one: one.line)
        yield part


def _unsplit(row: pd.Series) -> BadRow:
    return BadRow(int(row["line"]), str(row["field"]), f"{row['reason']}. {row['remedy']}")


def _columns(layout: ItemLayout) -> dict[str, str]:
    """Columns by role or, under a name of its own, feature."""
    return {**{role: c for role, c in layout.roles.items() if role != "id"}, **_prefixed(layout.features)}


def _prefixed(features: Mapping[str, str]) -> dict[str, str]:
    return {f"{FEATURES_COLUMN}.{name}": column for name, column in features.items()}


def _ids(layout: ItemLayout, cells: pd.Series) -> pd.Series:
    try:
        return id_cells(cells)
    except ValueError as error:
        remedy = "Write ids as text or as whole numbers"
        raise DataError(str(error), file=layout.path, field=layout.roles["id"], remedy=remedy) from None


def _item(layout: ItemLayout, bundles: Sequence[Bundle], item: str, cells: Mapping[str, Any]) -> NewItem:
    """Return the item of a row. Raises DataError with the field that is wrong."""
    features = {}
    for name in layout.features:
        cell = cells[f"{FEATURES_COLUMN}.{name}"]
        if not (is_missing(cell) or cell in ("", LIST_MARK)):
            features[name] = feature_value(layout.fields.get(name), cell)
    content: dict[str, Any] = {"id": item, "features": features, "available": _is_available(cells.get("available"))}
    if title := value_text(cells.get("title")):
        content["title"] = title
    try:
        body = ItemInput.model_validate(content)
    except ValidationError as error:
        place = [str(part) for part in error.errors()[0]["loc"]]
        name = place[1] if place[0] == FEATURES_COLUMN and len(place) > 1 else place[0]
        raise DataError(explain_errors(error), field=name) from None
    check_features(bundles, "item", body.features)
    return NewItem(body.id, body.features, body.title, body.available)


def feature_value(one: FeatureField | None, cell: Any) -> Any:
    """Return the value of a cell as it is stored: numbers as numbers, several values as a list, so that a file of any
    form says the same. What cannot be read stays, and is refused by the check."""
    if isinstance(cell, str) and (LIST_MARK in cell or (one is not None and one.kind == "multi")):
        values = list_values(cell, one.separator if one is not None else LIST_MARK)
        return [value.strip() for value in values if value.strip()]
    if one is not None and one.kind == "multi":
        return [value_text(cell)]
    if one is not None and one.kind == "numeric":
        return _number(cell)
    return cell if isinstance(cell, bool | int | float) else value_text(cell)


def _number(cell: Any) -> Any:
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return value_text(cell)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _is_available(cell: Any) -> bool:
    text = value_text(cell)
    if not text:
        return True
    word = BOOLEAN_WORDS.get(text, text)
    if word not in _AVAILABLE:
        raise DataError(f"{text[:100]!r} is neither true nor false", field="available")
    return _AVAILABLE[word]
