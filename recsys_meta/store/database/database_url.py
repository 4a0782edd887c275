"""Urls of databases: parsed strictly, and never repeated in an error, since they hold passwords."""

from __future__ import annotations

import re

from sqlalchemy import exc as sql
from sqlalchemy.engine import URL, make_url

from recsys_meta.core.errors import StoreError

_HOSTS = re.compile(r"(?P<start>[a-z+]+://(?:[^@/?#]*@)?)(?P<hosts>[^@/?#]*,[^@/?#]*)(?P<end>[/?].*)?", re.S)
_OTHER_KINDS = ("mysql", "mariadb", "oracle", "mssql", "mongodb", "duckdb", "cockroachdb")
_UNREADABLE = "the database url cannot be read; expected sqlite:///FILE or postgresql://..."
_UNESCAPED = (
    "the database url has an '@' too many: in its login or password write @ as %40, / as %2F, ? as %3F, # as %23 and "
    ": as %3A"
)


def parse_url(url: str) -> URL:
    """Parse a url and set its driver; several hosts, separated by commas, are tried in turn as libpq does.

    Raises StoreError without repeating the url.
    """
    try:
        target = make_url(_with_host_list(url))
    except (sql.ArgumentError, ValueError):
        if _signs(url) > 1:
            raise StoreError(_UNESCAPED) from None
        # `from None`: the message of the cause quotes parts of the url.
        raise StoreError(_UNREADABLE) from None
    backend = target.get_backend_name()
    if backend in ("postgresql", "postgres"):
        if _is_ambiguous(url, target):
            raise StoreError(_UNESCAPED)
        return target.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        # Not the scheme as it was given: of a text that is no url it may be anything.
        shown = f"of kind '{backend}' " if backend in _OTHER_KINDS else ""
        raise StoreError(f"databases {shown}are not supported; use sqlite or postgresql")
    if target.database in (None, "", ":memory:"):
        # Each connection would see its own, empty database.
        raise StoreError("SQLite in memory cannot be shared between connections; name a file, sqlite:///FILE")
    return target


def mask_password(text: str, url: URL) -> str:
    """Return a text as one line of at most 300 characters, without the password of a url or any other."""
    if url.password:
        text = text.replace(str(url.password), "***")
    text = re.sub(r"://[^@\s]*@", "://***@", text)
    return " ".join(text.split())[:300]


def _is_ambiguous(url: str, target: URL) -> bool:
    """Return whether a part of the login or password may have been taken for the host: drivers name hosts in errors."""
    signs = _signs(url)
    return signs > 1 or (signs == 1 and (target.username is None or "@" in (target.host or "")))


def _signs(url: str) -> int:
    return url.partition("://")[2].count("@")


def _with_host_list(url: str) -> str:
    """Rewrite libpq's list of hosts, h1:5432,h2:5433, in the form that SQLAlchemy reads."""
    match = _HOSTS.fullmatch(url)
    if match is None or not url.startswith("postgres"):
        return url
    path, _, query = (match["end"] or "").partition("?")
    hosts = [host if ":" in host else f"{host}:5432" for host in match["hosts"].split(",")]
    return (
        f"{match['start']}{path or '/'}?{'&'.join([*(f'host={host}' for host in hosts), *([query] if query else [])])}"
    )
