"""Database connections for SQLite and PostgreSQL."""

import importlib.util
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy import exc as sql
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

from recsys_meta.core.errors import RecsysMetaError, StoreError
from recsys_meta.store.database.column_types import read_document
from recsys_meta.store.database.database_errors import StoreUnavailable, is_stale_server, translate_error
from recsys_meta.store.database.database_url import parse_url

__all__ = [
    "DatabaseOptions",
    "StoreUnavailable",
    "connect",
    "parse_url",
    "ping",
    "reading",
    "session",
    "translate_error",
]

BUSY_MS = 10_000  # how long a writer on SQLite waits for another, milliseconds
SILENT_MS = 30_000  # how long sent data may stay unacknowledged by the server, milliseconds
TRUNCATE_S = 5.0  # how long to wait for readers before the log can be emptied, seconds
SECRET_OPTION = "installation_secret"  # noqa: S105 (the name of an engine's option, not its value)


@dataclass(frozen=True)
class DatabaseOptions:
    """Options of connections to PostgreSQL; times in seconds. SQLite has no use for them, but for the secret.

    `pool_size` connections stay open and `pool_overflow` more are opened under load; a caller waits `pool_timeout_s`
    for a free one. With `pool_size` 0 none stays open: the pool is then PgBouncer's alone. A statement that takes
    longer than `statement_timeout_s` is cancelled (None: never). `secret`: see `store.installation`.
    """

    pool_size: int = 5
    pool_overflow: int = 10
    pool_timeout_s: float = 10.0
    connect_timeout_s: float = 5.0
    statement_timeout_s: float | None = None
    secret: str | None = None


DEFAULT_OPTIONS = DatabaseOptions()


def connect(url: str, options: DatabaseOptions = DEFAULT_OPTIONS) -> Engine:
    """Return an engine for a ``sqlite:///file`` or ``postgresql://`` url, without opening a connection.

    Creates the directory of a SQLite file. Raises StoreError if the url cannot be used; the message never holds the
    url, which may contain a password.
    """
    target = parse_url(url)
    if target.get_backend_name() == "sqlite":
        return _sqlite(target, options)
    pool: dict[str, Any] = {"poolclass": NullPool}
    if options.pool_size:
        pool = {
            "pool_pre_ping": True,
            "pool_size": options.pool_size,
            "max_overflow": options.pool_overflow,
            "pool_timeout": options.pool_timeout_s,
        }
    if importlib.util.find_spec("psycopg") is None:
        raise StoreError("PostgreSQL needs the package psycopg: pip install 'recsys-meta[postgres]'")
    engine = create_engine(
        target,
        hide_parameters=True,
        json_deserializer=read_document,
        execution_options={SECRET_OPTION: options.secret},
        connect_args={
            "connect_timeout": max(1, round(options.connect_timeout_s)),
            "tcp_user_timeout": SILENT_MS,
            "keepalives_idle": 5,
            "application_name": "recsys-meta",
            # A prepared statement belongs to one connection of the server: PgBouncer in transaction mode gives the
            # next transaction another one, which does not have it, or has another of that name.
            "prepare_threshold": None,
        },
        **pool,
    )
    if options.statement_timeout_s is not None:
        limit_ms = max(1, round(1000 * options.statement_timeout_s))
        # In each transaction: PgBouncer refuses it as a parameter of the connection, and forgets it between two.
        event.listen(engine, "begin", lambda c: c.exec_driver_sql(f"SET LOCAL statement_timeout = {limit_ms}"))
    return engine


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


def truncate_wal(engine: Engine, wait_s: float | None = None) -> bool:
    """Empty the write-ahead log of a SQLite database, which still holds what was deleted; return whether it is empty.

    A reader that is under way keeps it from that, so this waits for `wait_s` seconds (None: `TRUNCATE_S`). Nothing to
    do for PostgreSQL.
    """
    if engine.dialect.name != "sqlite":
        return True
    deadline = time.monotonic() + (TRUNCATE_S if wait_s is None else wait_s)
    while True:
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                raw = connection.connection.dbapi_connection
                assert raw is not None
                raw.execute("PRAGMA busy_timeout = 100")
                busy = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                raw.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        except sql.SQLAlchemyError as error:
            raise translate_error(error, engine) from None
        except sqlite3.OperationalError:
            busy = True
        if not busy:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


def _transaction(engine: Engine) -> Iterator[Session]:
    try:
        with Session(engine, expire_on_commit=False) as open_session, open_session.begin():
            yield open_session
    except RecsysMetaError:
        raise
    except sql.SQLAlchemyError as error:
        if is_stale_server(error):
            engine.dispose()  # the pool's connections lead to a server that is a standby now, or is going down
        raise translate_error(error, engine) from None
    except OverflowError as error:  # SQLite's driver raises it past SQLAlchemy
        raise ValueError(f"a number is too large: {error}") from None


def _sqlite(target: URL, options: DatabaseOptions) -> Engine:
    file = Path(str(target.database))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the database's directory cannot be made: {error}") from None
    engine = create_engine(
        target,
        hide_parameters=True,
        pool_timeout=options.pool_timeout_s,
        json_deserializer=read_document,
        execution_options={SECRET_OPTION: options.secret},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    # The driver's BEGIN comes too late (before the first write, never before DDL): `_begin_sqlite` sends it instead.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    _use_wal(connection)
    # What is committed has been acknowledged: it must outlast a power cut (NORMAL may lose the last commits of a WAL).
    connection.execute("PRAGMA synchronous = FULL")
    # What is deleted is overwritten: an erasure must leave nothing in the pages of the file.
    connection.execute("PRAGMA secure_delete = ON")
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
