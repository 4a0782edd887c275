"""Retries of a client: after 429 and 503, and where no response came to a call that may be repeated."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class RetryPolicy:
    """Policy of at most `tries` attempts, with at most `most` seconds of pauses between all of them together.

    A pause that the API names (`Retry-After`) is kept, with a little jitter on top so that clients which were refused
    together do not come back together. Otherwise pauses are drawn between nothing and a bound that doubles from
    `first` seconds. `jitter` draws a number of [0, 1).
    """

    tries: int = 4
    most: float = 30.0
    first: float = 0.1
    jitter: Callable[[], float] = random.random

    def wait(self, attempt: int, retry_after: str | None, total_pause: float) -> float | None:
        """Return the seconds of the pause after attempt 1, 2, ..., where pauses were `total_pause` seconds so far;
        None to give up."""
        if attempt >= self.tries:
            return None
        seconds = None if retry_after is None else _retry_after_seconds(retry_after)
        if seconds is None:
            pause = self.jitter() * self.first * 2.0 ** (attempt - 1)
        else:
            pause = seconds + self.jitter() * self.first
        return pause if total_pause + pause <= self.most else None


def _retry_after_seconds(text: str) -> float | None:
    """Return the seconds of a `Retry-After`, a number or a date of HTTP; None where it is neither."""
    if text.strip().isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())
