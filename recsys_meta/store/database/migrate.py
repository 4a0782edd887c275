"""Migration of a database to a revision of `migrations/`, in this process and without an alembic.ini.

Processes that start at the same time may all request it: a database lock lets one migrate while the others wait and
then find nothing left to do. Each upgrade is one transaction, also on SQLite: it happens completely or not at all.

The revision is kept in a table of our own, because a database that is shared may hold another program's
`alembic_version`. Releases before it used that one: their row is moved when the database is next upgraded.
"""

import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from recsys_meta.core.errors import StoreError
from recsys_meta.store.database.engine import connect, translate_error

MIGRATION_LOCK = 0x7265_6373_6D69_67  # an arbitrary number that nothing else in the database locks
WAIT_MS = 120_000  # how long to wait for another process on SQLite, milliseconds

VERSION_TABLE = "recsys_meta_revision"
"""The table that holds the revision of the database."""

_SHARED_TABLE = "alembic_version"  # Alembic's default, which any program may use
_OWN_TABLES = {"alias_history", "model_versions", "latest_metrics", "adaptations"}  # since the first revision

# Alembic holds the running migration in a module global.
_one_at_a_time = threading.Lock()


def upgrade_database(url: str, revision: str = "head") -> None:
    """Upgrade to a revision. Raises StoreUnavailable or StoreError, with the database left unchanged."""
    _run(url, lambda config: command.upgrade(config, revision))


def downgrade_database(url: str, revision: str) -> None:
    """Downgrade to a revision, or with ``base`` to an empty database. Raises like `upgrade_database`."""
    _run(url, lambda config: command.downgrade(config, revision))


def current_revision(url: str) -> str | None:
    """Return the revision of a database, None if it was never upgraded. Raises StoreUnavailable."""
    with _connection(url, write=False) as connection:
        return _revision(connection)


def newest_revision() -> str:
    """Return the revision that this release's tables are at."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def check_revision(revision: str | None) -> None:
    """Raise StoreError for a revision that this release does not know."""
    if revision is not None and revision not in _known_revisions():
        raise StoreError(
            f"the database is at revision '{revision}', which this release does not know: a newer one has upgraded it. "
            "Use that release, or a database of its own for this one"
        )


def _run(url: str, step: Callable[[Config], None]) -> None:
    with _one_at_a_time, _connection(url, write=True) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        config = _config()
        config.attributes["connection"] = connection
        _move_revision(connection)
        check_revision(_revision(connection))
        try:
            step(config)
        except CommandError as error:
            raise StoreError(f"the migration failed: {error}") from None
        _check_keys(connection)


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision() or _shared_revision(connection)


def _shared_revision(connection: Connection) -> str | None:
    """Return our revision from the table that any program may use; None where what is there is not ours."""
    tables = set(inspect(connection).get_table_names())
    if VERSION_TABLE in tables or _SHARED_TABLE not in tables or not tables >= _OWN_TABLES:
        return None
    rows = connection.execute(text(f"SELECT version_num FROM {_SHARED_TABLE}")).scalars()  # noqa: S608
    return next((row for row in rows if row in _known_revisions()), None)


def _move_revision(connection: Connection) -> None:
    """Move our revision into the table of our own; another program's row stays where it is."""
    revision = _shared_revision(connection)
    if revision is None:
        return
    connection.execute(text(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    statement = f"INSERT INTO {VERSION_TABLE} (version_num) VALUES (:revision)"  # noqa: S608
    connection.execute(text(statement), {"revision": revision})
    deletion = f"DELETE FROM {_SHARED_TABLE} WHERE version_num = :revision"  # noqa: S608
    connection.execute(text(deletion), {"revision": revision})
    if connection.execute(text(f"SELECT 1 FROM {_SHARED_TABLE}")).first() is None:  # noqa: S608
        connection.execute(text(f"DROP TABLE {_SHARED_TABLE}"))


def _known_revisions() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


@contextmanager
def _connection(url: str, *, write: bool) -> Iterator[Connection]:
    """Open a connection in a transaction, from an engine that is disposed of afterwards."""
    engine = connect(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    options: dict[str, Any] = {"sqlite_begin": "BEGIN IMMEDIATE"} if write else {}
    try:
        with engine.execution_options(**options).begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise translate_error(error, engine) from None
    finally:
        engine.dispose()


def _prepare_sqlite(connection: Any, record: Any) -> None:
    # SQLite alters a table by replacing it: dropping the old one would cascade to the rows that refer to it.
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute(f"PRAGMA busy_timeout = {WAIT_MS}")


def _check_keys(connection: Connection) -> None:
    """Raise StoreError, which rolls the migration back, if it left a dangling reference (SQLite)."""
    if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise StoreError("the migration would leave rows that refer to nothing; it was undone")


def _config() -> Config:
    config = Config()
    # Interpolated like an ini file: a per cent sign in a path must be doubled.
    config.set_main_option("script_location", str(_script_folder()).replace("%", "%%"))
    return config


def _script_folder() -> Path:
    """Return the folder of the package `migrations`, which is located but not imported: it depends on this package."""
    spec = importlib.util.find_spec("migrations")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / "env.py").is_file():
            return Path(folder)
    raise StoreError("the package `migrations` is not installed beside recsys_meta")
