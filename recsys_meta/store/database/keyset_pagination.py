"""Keyset pagination: an opaque cursor names the last row seen, so that pages stay complete while rows are inserted."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

Row = TypeVar("Row")
Key = str | int | datetime

MAX_PAGE_SIZE = 1000  # rows that one page may hold
_MAX_CURSOR_LENGTH = 2000  # characters of a cursor
_INTEGER_LIMIT = 2**63


@dataclass(frozen=True)
class KeysetPage(Generic[Row]):
    """Rows of one page, and the cursor of the next page, None on the last."""

    items: list[Row]
    next: str | None


def encode_cursor(listing: str, keys: Sequence[Key]) -> str:
    """Return the cursor after the row with these keys in the named list."""
    values = [listing, *(k.astimezone(UTC).isoformat() if isinstance(k, datetime) else k for k in keys)]
    raw = json.dumps(values, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_cursor(listing: str, cursor: str, types: Sequence[type[Key]]) -> list[Key]:
    """Return the keys of a cursor of `encode_cursor`. Raises ValueError for any other text or another list's cursor."""
    try:
        values = _unpack(cursor)
        if len(values) != 1 + len(types) or values[0] != listing:
            raise ValueError("another list")
        return [_read_key(value, kind) for value, kind in zip(values[1:], types, strict=True)]
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"this is not a cursor of the list of {listing}") from None


def page_size(limit: int) -> int:
    """Return the limit. Raises ValueError outside 1 to 1000."""
    if not 1 <= limit <= MAX_PAGE_SIZE:
        raise ValueError(f"a page holds 1 to {MAX_PAGE_SIZE} rows, not {limit}")
    return limit


def paginate(listing: str, rows: Sequence[Row], limit: int, keys: Sequence[str]) -> KeysetPage[Row]:
    """Return the page of a query that fetched one row more than the limit."""
    items = list(rows[:limit])
    if len(rows) <= limit:
        return KeysetPage(items, None)
    return KeysetPage(items, encode_cursor(listing, [getattr(items[-1], key) for key in keys]))


def newest_page(
    session: Session,
    query: Select[Row],
    listing: str,
    keys: Mapping[InstrumentedAttribute[Any], type[Key]],
    limit: int,
    cursor: str | None,
) -> KeysetPage[Row]:
    """Return a page of the rows of a query, the greatest keys (columns and their types) first.

    Raises ValueError for a limit outside 1 to 1000 or a cursor of another list.
    """
    columns = tuple(keys)
    if cursor is not None:
        after = decode_cursor(listing, cursor, tuple(keys.values()))
        query = query.where(after_cursor(columns, after, descending=True))
    query = query.order_by(*(c.desc() for c in columns)).limit(page_size(limit) + 1)
    return paginate(listing, session.scalars(query).all(), limit, [c.key for c in columns])


def after_cursor(
    columns: Sequence[InstrumentedAttribute[Any]], keys: Sequence[Key], *, descending: bool
) -> ColumnElement[bool]:
    """Return the condition for rows after the keys in the order of the columns, (a, b) > (x, y). As one comparison of
    rows it is where an index is entered, so that the thousandth page takes as long as the first."""
    row, last = tuple_(*columns), tuple_(*(literal(k, c.type) for c, k in zip(columns, keys, strict=True)))
    return row < last if descending else row > last


def _unpack(cursor: str) -> list[Any]:
    if len(cursor) > _MAX_CURSOR_LENGTH:
        raise ValueError("too long")
    try:
        raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("not base64") from None
    values = json.loads(raw)
    if not isinstance(values, list):
        raise TypeError("not a list")
    return values


def _read_key(value: Any, kind: type[Key]) -> Key:
    if kind is datetime:
        time = datetime.fromisoformat(value)
        if time.tzinfo is None:
            raise ValueError("no time zone")
        return time
    if type(value) is not kind:
        raise ValueError("wrong type")
    if isinstance(value, int) and not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
        raise ValueError("too large")
    return value
