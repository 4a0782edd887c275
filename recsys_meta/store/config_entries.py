"""Strict parsing of the settings for API keys, the rate limit and the places for new items.

The command that starts a server parses them first, where a mistake is one line of output, and each worker does again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from recsys_meta.core.errors import ConfigError
from recsys_meta.store.access.api_keys import SCOPES

if TYPE_CHECKING:
    from limits import RateLimitItem

    from recsys_meta.inference.ranking.fresh_slots import FreshPolicy


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


def parse_fresh_policies(entries: str) -> dict[str, FreshPolicy]:
    """Parse the policies of models from entries MODEL:POLICY joined by commas, as `NAME:slots=2,OTHER:share=0.1`.

    Raises ConfigError for another form, a model that comes twice, or a wrong policy.
    """
    policies: dict[str, FreshPolicy] = {}
    for entry in filter(None, (part.strip() for part in entries.split(","))):
        model, _, policy = entry.partition(":")
        if not model or model in policies:
            raise ConfigError(f"RECSYS_META_FRESH: '{entry}' must be MODEL:POLICY, once for each model")
        policies[model] = parse_fresh_policy(policy, f"RECSYS_META_FRESH: '{entry}'")
    return policies


def parse_fresh_policy(text: str, where: str) -> FreshPolicy:
    """Parse a policy such as `slots=2`, `share=0.1` or `slots=2:events=50`.

    Raises ConfigError that names `where` for another form, a value out of its range, or both or neither of slots and
    share.
    """
    from recsys_meta.inference.ranking.fresh_slots import FreshPolicy  # imports torch, which most commands do not need

    form = f"{where}: must be slots=N or share=S from 0 to 1, and perhaps events=N behind a colon"
    values = dict[str, int | float]()
    for pair in text.split(":"):
        name, _, value = (part.strip() for part in pair.partition("="))
        if name in values or name not in ("slots", "share", "events"):
            raise ConfigError(form)
        try:
            values[name] = float(value) if name == "share" else int(value)
        except ValueError:
            raise ConfigError(form) from None
    share = values.get("share", 0.0)
    is_in_range = math.isfinite(share) and share <= 1 and min(values.values()) >= 0 and values.get("events", 1) >= 1
    if not is_in_range or ("slots" in values) == ("share" in values):
        raise ConfigError(form)
    return FreshPolicy(**values)  # type: ignore[arg-type]
