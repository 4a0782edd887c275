"""Numbers, times and ids as pages write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

NOTHING = "\N{EN DASH}"
"""What stands where nothing is known."""


def number(value: Any, digits: int = 4) -> str:
    """Write a number with so many significant digits, and whole ones with a space between thousands."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.{digits}g}" if abs(value) < 10_000 else number(round(value))


def decimal(value: float | None, places: int = 3) -> str:
    """Write a number with so many places."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.{places}f}"


def percent(value: float | None, places: int = 1) -> str:
    """Write a share."""
    return NOTHING if value is None or not math.isfinite(value) else f"{100 * value:.{places}f}%"


def interval(low: float | None, high: float | None, places: int = 3) -> str:
    """Write an interval; nothing where an end is not known."""
    return "" if low is None or high is None else f"[{decimal(low, places)}, {decimal(high, places)}]"


def moment(value: datetime | None) -> str:
    """Write a time in UTC, to the second."""
    return NOTHING if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def epoch(seconds: float) -> str:
    """Write a time in seconds since 1970, in UTC; nothing for one that no calendar has."""
    try:
        return moment(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        return NOTHING


def short(value: str | None, length: int = 12) -> str:
    """Write the beginning of a version or of another long id."""
    return NOTHING if value is None else value if len(value) <= length else value[:length] + "…"


def path_part(value: str) -> str:
    """Write a text as one part of a path or as a value of a query."""
    return quote(value.encode(errors="replace"), safe="")


FORMATS: Mapping[str, Callable[..., Any]] = {
    function.__name__: function for function in (number, decimal, percent, interval, moment, epoch, short, path_part)
}
"""The formats by their names in templates."""
