"""Column types that behave the same on SQLite and PostgreSQL.

Left alone, SQLite forgets time zones, ignores the length of a string and turns NaN into NULL, and PostgreSQL
refuses NUL characters that SQLite accepts. Each type here closes one of these gaps before the database is asked,
so that what passes on a laptop passes in production.
"""

import json
import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Double, Integer, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

# SQLite numbers rows only in a column declared INTEGER, so BIGINT would lose the automatic key there.
BigKey = BigInteger().with_variant(Integer(), "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """A datetime, stored in UTC and returned with UTC attached. Raises ValueError for a naive one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None or value.utcoffset() is None:
            raise ValueError("a time needs a time zone; this one has none")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        time: datetime = value
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


class BoundedText(TypeDecorator[str]):
    """A text of at most ``length`` characters. Raises ValueError for a longer one, or one not storable as UTF-8."""

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if len(value) > self.length:
            raise ValueError(f"a text of {len(value)} characters is longer than the {self.length} allowed")
        check_text(value)
        return value


class FiniteDouble(TypeDecorator[float]):
    """A double. NaN is stored as NULL and read as None: SQLite cannot store it, and SQL averages skip NULL."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        return None if value is None or math.isnan(value) else float(value)


class JsonDocument(TypeDecorator[Any]):
    """JSON (JSONB on PostgreSQL). Raises ValueError for NaN, infinities, NUL characters and lone surrogates."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        kind = JSONB(none_as_null=True) if dialect.name == "postgresql" else JSON(none_as_null=True)
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if value is not None:
            check_document(value)
        return value


def read_document(raw: str | bytes) -> Any:
    """Parse JSON from the database, with integers beyond 64 bits as floats.

    PostgreSQL returns 1e300 with all its digits; as a float it is what was stored, and other JSON writers accept it.
    """
    return json.loads(raw, parse_int=_read_integer)


def check_text(value: str) -> None:
    """Raise ValueError if PostgreSQL could not store the text."""
    if "\x00" in value:
        raise ValueError("a text may not contain the NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("a text may not contain half a surrogate pair") from None


def check_document(value: Any) -> None:
    """Raise ValueError if the value is not JSON that both databases store unchanged."""
    try:
        written = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not storable as JSON: {error}") from None
    if "\\u0000" in written or "\\ud" in written:  # as both are written, and some that are none
        for text in _texts(value):
            check_text(text)


def _read_integer(digits: str) -> int | float:
    number = int(digits)
    return number if -(2**63) <= number < 2**63 else float(digits)


def _texts(value: Any) -> list[str]:
    """Return every text in a JSON value, names of fields included."""
    texts: list[str] = []
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
    return texts
