"""Log of versions that could not be loaded, or failed their trial, so that each reason is logged once and not at every
attempt."""

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
    """The last failure of a version: its time by the monotonic clock, seconds, and its reason. `in_trial`: it was
    loaded and then failed its trial, as it will again, because a version never changes."""

    time: float
    reason: str
    in_trial: bool


class LoadFailureLog:
    """The last failure of each version, until it is loaded, or comes into or goes out of service."""

    def __init__(self) -> None:
        self._last: OrderedDict[Key, LoadFailure] = OrderedDict()
        self._in_service: frozenset[Key] = frozenset()

    def __len__(self) -> int:
        return len(self._last)

    def record(self, key: Key, reason: str, *, in_trial: bool = False) -> bool:
        """Remember a failure. True where it is news: the version's first, or for another reason than its last."""
        before = self._last.pop(key, None)
        self._last[key] = LoadFailure(time.monotonic(), reason, in_trial)
        if len(self._last) > MAX_VERSIONS:
            self._last.popitem(last=False)
        return before is None or before.reason != reason

    def recent(self, key: Key, seconds: float) -> bool:
        """True where the version failed within the last `seconds`."""
        last = self._last.get(key)
        return last is not None and time.monotonic() - last.time < seconds

    def trial_problem(self, key: Key) -> str | None:
        """Return why the version failed its trial, None where it did not."""
        last = self._last.get(key)
        return last.reason if last is not None and last.in_trial else None

    def forget(self, key: Key) -> None:
        """Forget a version that was loaded, or is asked for anew: its next failure is news."""
        self._last.pop(key, None)

    def retain(self, keys: Iterable[Key]) -> None:
        """Take the versions that are to be in service from now on; forget those that come or go."""
        in_service = frozenset(keys)
        for key in self._in_service ^ in_service:
            self.forget(key)
        self._in_service = in_service
