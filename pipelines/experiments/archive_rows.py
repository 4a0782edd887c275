"""Rows of a run's archive, checked against the tables that they go into.

A file may be cut, edited or of another release; the database would take some of that (SQLite a text for a number, both
a row of which a column is not known) and refuse the rest in words about statements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column

from recsys_meta.store.database.base import Base
from recsys_meta.store.database.bulk_insert import table_of

_KINDS: Mapping[type, tuple[type, ...]] = {float: (float, int)}


def check_rows(table: type[Base], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with every column of the table but the one that the database numbers, None where none was written.

    Raises ValueError for an unknown column, a required value that is missing, or a value of another type.
    """
    target = table_of(table)
    columns = {one.name: one for one in target.columns if one is not target.autoincrement_column}
    return [_checked(target.name, columns, row) for row in rows]


def _checked(table: str, columns: Mapping[str, Column[Any]], row: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(row.keys() - columns.keys())
    if unknown:
        raise ValueError(f"'{table}' has no column '{unknown[0]}'")
    cells: dict[str, Any] = {}
    for name, column in columns.items():
        value = row.get(name)
        if value is None and not column.nullable:
            raise ValueError(f"a row of '{table}' has no '{name}'")
        if value is not None and not _fits(value, column):
            raise ValueError(f"a row of '{table}' has {value!r:.60} as its '{name}'")
        cells[name] = value
    return cells


def _fits(value: object, column: Column[Any]) -> bool:
    # A decorated type, as texts and times are, knows the type of its values by what it decorates.
    kind = getattr(column.type, "impl_instance", column.type).python_type
    if kind in (str, int, float, datetime):
        return isinstance(value, _KINDS.get(kind, kind)) and not isinstance(value, bool)
    return True
