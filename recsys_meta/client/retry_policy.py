"""How long a client tries again: after 429 and 503, and where no answer came to a call that may be repeated."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class Patience:
    """At most `tries` attempts, and `most` seconds of waiting for all of them together.

    Where the API names a time (`Retry-After`) it is kept, with a little chance on top so that clients which were
    refused together do not come back together. Else waits double from `first` seconds, each between nothing and that.
    """

    tries: int = 4
    most: float = 30.0
    first: float = 0.1
    chance: Callable[[], float] = random.random

    def wait(self, attempt: int, retry_after: str | None, waited: float) -> float | None:
        """Seconds to wait after attempt 1, 2, ...; None: give up."""
        if attempt >= self.tries:
            return None
        named = None if retry_after is None else _seconds(retry_after)
        if named is None:
            pause = self.chance() * self.first * 2.0 ** (attempt - 1)
        else:
            pause = named + self.chance() * self.first
        return pause if waited + pause <= self.most else None


def _seconds(text: str) -> float | None:
    """`Retry-After` as seconds or as a date of HTTP; None where it is neither."""
    if text.strip().isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())
