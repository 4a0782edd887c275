"""Bulk inserts and upserts in the dialect of the connected database."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Session

Item = TypeVar("Item")


def table_of(model: type[DeclarativeBase]) -> Table:
    """Return the table of a mapped class."""
    table = model.__table__
    assert isinstance(table, Table)
    return table


def insert_into(session: Session, model: type[DeclarativeBase]) -> Any:
    """Return an INSERT that has ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table_of(model))
    return sqlite.insert(table_of(model))


def in_chunks(items: Sequence[Item], size: int = 500) -> Iterator[Sequence[Item]]:
    """Yield slices short enough for the number of parameters that SQLite and PostgreSQL allow in a statement."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def unique(items: Iterable[Item]) -> list[Item]:
    """Return the distinct items in order of first occurrence."""
    return list(dict.fromkeys(items))
