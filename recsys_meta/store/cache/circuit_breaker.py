"""A breaker: after some failures in a row nobody tries for a while, then one does."""

import threading
import time
from collections.abc import Callable


class CircuitBreaker:
    """Opens after ``failures`` failures in a row, for ``pause`` seconds, doubling up to ``longest``."""

    def __init__(
        self,
        failures: int = 3,
        pause: float = 0.5,
        max_pause: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threshold, self._first_pause, self._max_pause, self._clock = failures, pause, max_pause, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._pause = pause
        self._open_until = float("-inf")

    def fresh_copy(self) -> "CircuitBreaker":
        """A closed breaker with the same settings."""
        return CircuitBreaker(self._threshold, self._first_pause, self._max_pause, self._clock)

    @property
    def degraded(self) -> bool:
        """Whether the last attempt failed."""
        return self._failures > 0

    def allow_request(self) -> bool:
        """Whether to try now. While open, one caller is let through after each pause."""
        if self._failures < self._threshold:
            return True
        with self._lock:
            if self._clock() < self._open_until:
                return False
            self._open_until = self._clock() + self._pause
            return True

    def record_success(self) -> None:
        """An attempt went well: close."""
        if self._failures:
            with self._lock:
                self._failures, self._pause = 0, self._first_pause

    def record_failure(self) -> None:
        """An attempt failed: count it, and open when that was one too many."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._threshold:
                self._open_until = self._clock() + self._pause
                self._pause = min(2 * self._pause, self._max_pause)
