"""Strict parsing of the settings for API keys and the rate limit.

The command that starts a server parses them first, where a mistake is one line of output, and each worker does again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from recsys_meta.core.errors import ConfigError
from recsys_meta.store.access.api_keys import SCOPES

if TYPE_CHECKING:
    from limits import RateLimitItem


def parse_api_keys(entries: Iterable[str]) -> list[tuple[str, frozenset[str]]]:
    """Return keys with their scopes from entries `key` (all scopes), `key:read`, `key:read+write` or `key:admin`.

    Raises ConfigError for an unknown scope or an empty key, without repeating the key.
    """
    return [_parse_key(number, entry) for number, entry in enumerate(entries, 1)]


def _parse_key(number: int, entry: str) -> tuple[str, frozenset[str]]:
    text, colon, scope_text = entry.partition(":")
    scopes = frozenset(scope_text.split("+") if colon else SCOPES)
    if not text or not scopes <= frozenset(SCOPES):
        raise ConfigError(
            f"RECSYS_META_API_KEYS: entry {number} must be KEY or KEY:SCOPES with scopes from "
            "read, write, admin joined by +"
        )
    return text, scopes


def parse_rate_limit(limit: str) -> RateLimitItem:
    """Parse a rate limit such as `1000/second`. Raises ConfigError for any other form, or a limit below one request."""
    from limits import parse  # slow to import, and most commands do not need it

    try:
        item = parse(limit)
    except ValueError:
        item = None
    if item is None or item.amount < 1:
        raise ConfigError("RECSYS_META_RATE_LIMIT must be like 1000/second, 60000/minute or 10 per 2 seconds")
    return item
