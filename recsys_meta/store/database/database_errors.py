"""Errors of databases, translated into the project's: each cause in words of its own, and without a password."""

from __future__ import annotations

import re

from sqlalchemy import Engine
from sqlalchemy import exc as sql

from recsys_meta.core.errors import ConflictError, StoreError
from recsys_meta.store.database.database_url import mask_password

UNREACHABLE = "the database cannot be reached"
OUTDATED = "the database is not ready; run `recsys-meta db upgrade`"
READ_ONLY = "the database takes no writes"
GOING_DOWN = "the database is starting up or shutting down"

_UPGRADE = "a table or column is missing; run `recsys-meta db upgrade`"

# By SQLSTATE, where the server gave one.
_STATES = {
    "25006": READ_ONLY,
    "57P01": GOING_DOWN,
    "57P02": GOING_DOWN,
    "57P03": GOING_DOWN,
    "53300": "the database has no connection left",
    "53100": "the database's disk is full",
    "53200": "the database is out of memory",
    "28P01": "the database refuses the login or password",
    "28000": "the database refuses the login",
    "3D000": "there is no database of that name on the server",
    "42501": "the database login lacks a right",
    "57014": "the database stopped a statement that took too long",
    "40001": "the database was busy with another transaction",
    "40P01": "the database was busy with another transaction",
    "55P03": "the database was busy with another transaction",
}
# By the driver's words, where it has no code: while connecting, and all of SQLite's.
_WORDS: tuple[tuple[str, str], ...] = (
    (r"readonly database|read-only (transaction|mode)|session is read-only|session is not read-only", READ_ONLY),
    (
        r"starting up|shutting down|in recovery|not accepting|not yet accepting|terminating connection due to admin",
        GOING_DOWN,
    ),
    (r"password authentication failed|no password supplied|SASL authentication failed|auth_query", _STATES["28P01"]),
    (r"no pg_hba.conf entry|role \S+ does not exist|no such role", _STATES["28000"]),
    (r"database \S+ does not exist|no such database", _STATES["3D000"]),
    (
        r"too many clients|too many connections|remaining connection slots|no more connections|query_wait_timeout",
        _STATES["53300"],
    ),
    (r"database or disk is full|No space left", _STATES["53100"]),
    (r"QueuePool limit", "all connections to the database are in use (RECSYS_META_DATABASE_POOL_SIZE sets how many)"),
    (r"database is locked|database table is locked", "the database is locked by another process"),
    (r"file is not a database|malformed", "the database's file is none of SQLite, or damaged"),
    (r"unable to open database file", "the database's file cannot be opened"),
    (r"resolve|translate host name|Name or service not known", "the database's host is not known"),
)


class StoreUnavailable(StoreError):
    """The database or cache could not be reached, or is not ready. Trying again later may work.

    `public`: the cause in words that hold no name of a host, table or login, so that they may be shown to anybody.
    """

    def __init__(self, message: str, public: str | None = None) -> None:
        super().__init__(message)
        self.public = public


def translate_error(error: sql.SQLAlchemyError, engine: Engine) -> Exception:
    """Return the project's error for one of SQLAlchemy's. The message holds no statement, parameter or password."""
    origin = getattr(error, "orig", None)
    text = mask_password(str(origin if origin is not None else error), engine.url)
    if isinstance(origin, ValueError | OverflowError):
        return ValueError(text)
    if isinstance(error, sql.DataError):
        return ValueError(f"the database refused a value: {text}")
    if isinstance(error, sql.IntegrityError):
        return ConflictError(f"the database refused a row: {text}")
    if type(origin).__name__ == "DuplicateTable" or re.search(r"(table|view) \S+ already exists", text):
        return StoreError(
            f"the database holds tables of another program ({text}); give recsys-meta a database or a schema of its own"
        )
    if type(origin).__name__ in ("UndefinedTable", "UndefinedColumn") or re.match(
        r"no such (table|column)|table ", text
    ):
        return StoreUnavailable(f"{_UPGRADE} ({text})", OUTDATED)
    cause = database_cause(error)
    if cause is not None:
        return StoreUnavailable(f"{cause}: {text}", cause)
    if isinstance(error, sql.OperationalError | sql.InterfaceError | sql.TimeoutError):
        return StoreUnavailable(f"{UNREACHABLE}: {text}", UNREACHABLE)
    return StoreError(f"the database failed: {text}")


def database_cause(error: sql.SQLAlchemyError) -> str | None:
    """Return the known cause of a failure, in words for anybody; None for any other."""
    origin = getattr(error, "orig", None)
    state = getattr(origin, "sqlstate", None)
    if state in _STATES:
        return _STATES[state]
    if not isinstance(error, sql.OperationalError | sql.InterfaceError | sql.TimeoutError | sql.DatabaseError):
        return None
    text = str(origin if origin is not None else error)
    return next((cause for words, cause in _WORDS if re.search(words, text, re.I)), None)


def is_stale_server(error: sql.SQLAlchemyError) -> bool:
    """Return whether open connections lead to a server that another may have taken over from."""
    return database_cause(error) in (READ_ONLY, GOING_DOWN)
