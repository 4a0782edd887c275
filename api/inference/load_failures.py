"""Versions that could not be loaded: when, and why, so that each reason is logged once and not at every try."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

Key = tuple[str, str]
"""Name and version of a model."""

MOST = 256
"""Versions remembered; the one that failed longest ago is forgotten first, and then logged again if it fails again."""


class LoadFailure(NamedTuple):
    """The last failure of a version: the moment, by the monotonic clock, and the reason."""

    moment: float
    reason: str


class LoadFailureLog:
    """The last failure of each version, until it is loaded, or comes into or goes out of service."""

    def __init__(self) -> None:
        self._last: OrderedDict[Key, LoadFailure] = OrderedDict()
        self._wanted: frozenset[Key] = frozenset()

    def __len__(self) -> int:
        return len(self._last)

    def record(self, key: Key, error: Exception) -> bool:
        """Remember a failure. True where it is news: the first of the version, or for another reason than the last."""
        reason = f"{type(error).__name__}: {error}"
        before = self._last.pop(key, None)
        self._last[key] = LoadFailure(time.monotonic(), reason)
        if len(self._last) > MOST:
            self._last.popitem(last=False)
        return before is None or before.reason != reason

    def recent(self, key: Key, seconds: float) -> bool:
        """Whether the version failed within the last seconds."""
        last = self._last.get(key)
        return last is not None and time.monotonic() - last.moment < seconds

    def forget(self, key: Key) -> None:
        """The version was loaded, or somebody asks for it anew: its next failure is news."""
        self._last.pop(key, None)

    def retain(self, keys: Iterable[Key]) -> None:
        """The versions that are to be in service from now on; those that come or go are forgotten."""
        wanted = frozenset(keys)
        for key in self._wanted ^ wanted:
            self.forget(key)
        self._wanted = wanted
