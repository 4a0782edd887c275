"""JSON as its standard has it (RFC 8259), for every file and every output that says it is JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np


def dump_json(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    """Write a value as JSON: numbers that are not finite, which JSON does not have, as null; times in ISO 8601, paths
    as text, numpy's numbers as numbers. Raises TypeError for another type."""
    return json.dumps(to_json(value), indent=indent, sort_keys=sort_keys, allow_nan=False, default=_json_default)


def dump_json_numbers(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    """Write a value as `dump_json` does, but an infinite number as one beyond the range of all floats, 1e999: that is
    JSON, and Python reads it as infinite again."""
    text = json.dumps(to_json(value, _INFINITE), indent=indent, sort_keys=sort_keys, default=_json_default)
    return text.replace(json.dumps(f"-{_INFINITE}"), "-1e999").replace(json.dumps(_INFINITE), "1e999")


_INFINITE = "\ufdd1infinite\ufdd1"  # of noncharacters, which no text has


def to_json(value: Any, infinite: str | None = None) -> Any:
    """Return a value with None in place of every number that is not finite; `infinite` stands for an infinite one where
    it is given."""
    if isinstance(value, float | np.floating):
        if infinite is not None and math.isinf(value):
            return infinite if value > 0 else f"-{infinite}"
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: to_json(v, infinite) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v, infinite) for v in value]
    return value


def _json_default(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
