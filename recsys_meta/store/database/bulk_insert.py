"""How rows are written in bulk, in the dialect of the database at hand."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Session

Item = TypeVar("Item")


def table_of(model: type[DeclarativeBase]) -> Table:
    """The table of a mapped class."""
    table = model.__table__
    assert isinstance(table, Table)
    return table


def insert_into(session: Session, model: type[DeclarativeBase]) -> Any:
    """An INSERT with ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table_of(model))
    return sqlite.insert(table_of(model))


def in_chunks(items: Sequence[Item], size: int = 500) -> Iterator[Sequence[Item]]:
    """Slices short enough for the number of parameters that SQLite and PostgreSQL allow in a statement."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def unique(items: Iterable[Item]) -> list[Item]:
    """The items once each, in order."""
    return list(dict.fromkeys(items))
