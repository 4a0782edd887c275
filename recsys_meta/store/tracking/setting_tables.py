"""Settings as rows of a table: nested keys with dots, and those in which several differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = ""
"""What stands where one has no such key."""


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the values as JSON by their keys, those of nested tables with dots."""
    rows: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            rows |= flat_settings(value, f"{name}.")
        else:
            rows[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return rows


def changed_settings(settings: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Return the keys whose values are not the same in all, each with the value of every one."""
    keys = dict.fromkeys(key for one in settings for key in one)
    values = {key: [one.get(key, MISSING) for one in settings] for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1}
