"""Log of versions that could not be loaded, so that each reason is logged once and not at every attempt."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

Key = tuple[str, str]
"""Name and version of a model."""

MAX_VERSIONS = 256
"""Versions remembered; the one that failed longest ago is forgotten first, and logged again if it fails again."""


class LoadFailure(NamedTuple):
    """The last failure of a version: its time by the monotonic clock, seconds, and its reason."""

    time: float
    reason: str


class LoadFailureLog:
    """The last failure of each version, until it is loaded, or comes into or goes out of service."""

    def __init__(self) -> None:
        self._last: OrderedDict[Key, LoadFailure] = OrderedDict()
        self._in_service: frozenset[Key] = frozenset()

    def __len__(self) -> int:
        return len(self._last)

    def record(self, key: Key, error: Exception) -> bool:
        """Remember a failure. True where it is news: the version's first, or for another reason than its last."""
        reason = f"{type(error).__name__}: {error}"
        before = self._last.pop(key, None)
        self._last[key] = LoadFailure(time.monotonic(), reason)
        if len(self._last) > MAX_VERSIONS:
            self._last.popitem(last=False)
        return before is None or before.reason != reason

    def recent(self, key: Key, seconds: float) -> bool:
        """True where the version failed within the last `seconds`."""
        last = self._last.get(key)
        return last is not None and time.monotonic() - last.time < seconds

    def forget(self, key: Key) -> None:
        """Forget a version that was loaded, or is asked for anew: its next failure is news."""
        self._last.pop(key, None)

    def retain(self, keys: Iterable[Key]) -> None:
        """Take the versions that are to be in service from now on; forget those that come or go."""
        in_service = frozenset(keys)
        for key in self._in_service ^ in_service:
            self.forget(key)
        self._in_service = in_service
