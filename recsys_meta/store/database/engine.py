"""Database connections for SQLite and PostgreSQL, and the translation of their errors into the project's."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy import exc as sql
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import Session

from recsys_meta.core.errors import ConflictError, RecsysMetaError, StoreError
from recsys_meta.store.database.column_types import read_document

BUSY_MS = 10_000  # how long a writer on SQLite waits for another, milliseconds
CONNECT_S = 5  # how long a connection to PostgreSQL may take, seconds
SILENT_MS = 30_000  # how long sent data may stay unacknowledged by the server, milliseconds
POOL_S = 10  # how long a caller waits for a free connection, seconds

_UPGRADE = "a table or column is missing; run `recsys-meta db upgrade`"


class StoreUnavailable(StoreError):
    """The database or cache could not be reached, or is not ready. Trying again later may work."""


def connect(url: str) -> Engine:
    """Return an engine for a ``sqlite:///file`` or ``postgresql://`` url, without opening a connection.

    Creates the directory of a SQLite file. Raises StoreError if the url cannot be used; the message never holds the
    url, which may contain a password.
    """
    target = parse_url(url)
    if target.get_backend_name() == "sqlite":
        return _sqlite(target)
    return create_engine(
        target,
        pool_pre_ping=True,
        pool_timeout=POOL_S,
        hide_parameters=True,
        json_deserializer=read_document,
        connect_args={
            "connect_timeout": CONNECT_S,
            "tcp_user_timeout": SILENT_MS,
            "keepalives_idle": CONNECT_S,
            "application_name": "recsys-meta",
        },
    )


@contextmanager
def session(engine: Engine) -> Iterator[Session]:
    """Open a transaction that may write: it commits at the end and rolls back on any error.

    On SQLite it takes the write lock at once, since a reader that turns writer half-way fails instead of waiting.
    Raises ValueError for a value that cannot be stored, ConflictError if a constraint is violated, StoreUnavailable if
    the database cannot be reached, StoreError for any other failure.
    """
    yield from _transaction(engine.execution_options(sqlite_begin="BEGIN IMMEDIATE"))


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """Open a transaction that only reads; on SQLite it never waits for a writer. Raises like `session`."""
    yield from _transaction(engine)


def ping(engine: Engine) -> None:
    """Check that the database answers. Raises StoreUnavailable if it does not."""
    with reading(engine) as open_session:
        open_session.connection().exec_driver_sql("SELECT 1")


def parse_url(url: str) -> URL:
    """Parse a url and set its driver. Raises StoreError without repeating the url."""
    try:
        target = make_url(url)
    except (sql.ArgumentError, ValueError):
        # `from None`: the message of the cause quotes parts of the url.
        raise StoreError("the database url cannot be read; expected sqlite:///FILE or postgresql://...") from None
    backend = target.get_backend_name()
    if backend in ("postgresql", "postgres"):
        return target.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise StoreError(f"databases of kind '{backend}' are not supported; use sqlite or postgresql")
    if target.database in (None, "", ":memory:"):
        # Each connection would see its own, empty database.
        raise StoreError("SQLite in memory cannot be shared between connections; name a file, sqlite:///FILE")
    return target


def translate_error(error: sql.SQLAlchemyError, engine: Engine) -> Exception:
    """Return the project's error for one of SQLAlchemy's. The message holds no statement, parameter or password."""
    origin = getattr(error, "orig", None)
    text = _clean(str(origin if origin is not None else error), engine.url)
    if isinstance(origin, ValueError | OverflowError):
        return ValueError(text)
    if isinstance(error, sql.DataError):
        return ValueError(f"the database refused a value: {text}")
    if isinstance(error, sql.IntegrityError):
        return ConflictError(f"the database refused a row: {text}")
    if type(origin).__name__ in ("UndefinedTable", "UndefinedColumn") or text.startswith(("no such", "table ")):
        return StoreUnavailable(f"{_UPGRADE} ({text})")
    if type(origin).__name__ == "ReadOnlySqlTransaction":  # temporary, as while a replica is being promoted
        return StoreUnavailable(f"the database takes no writes: {text}")
    if isinstance(error, sql.OperationalError | sql.InterfaceError | sql.TimeoutError):
        return StoreUnavailable(f"the database cannot be reached: {text}")
    return StoreError(f"the database failed: {text}")


def _transaction(engine: Engine) -> Iterator[Session]:
    try:
        with Session(engine, expire_on_commit=False) as open_session, open_session.begin():
            yield open_session
    except RecsysMetaError:
        raise
    except sql.SQLAlchemyError as error:
        raise translate_error(error, engine) from None
    except OverflowError as error:  # SQLite's driver raises it past SQLAlchemy
        raise ValueError(f"a number is too large: {error}") from None


def _clean(text: str, url: URL) -> str:
    """Return a text as one line of at most 300 characters, with the password masked."""
    if url.password:
        text = text.replace(str(url.password), "***")
    return " ".join(text.split())[:300]


def _sqlite(target: URL) -> Engine:
    file = Path(str(target.database))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the database's directory cannot be made: {error}") from None
    engine = create_engine(target, hide_parameters=True, pool_timeout=POOL_S, json_deserializer=read_document)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    # The driver's BEGIN comes too late (before the first write, never before DDL): `_begin_sqlite` sends it instead.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    _use_wal(connection)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _use_wal(connection: Any) -> None:
    """Switch to write-ahead logging. SQLite does not apply its busy timeout to this switch, so this loop waits."""
    deadline = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(str(connection.get_execution_options().get("sqlite_begin", "BEGIN")))
