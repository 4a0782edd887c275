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
        longest: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit, self._first, self._longest, self._clock = failures, pause, longest, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._pause = pause
        self._until = float("-inf")

    def twin(self) -> "CircuitBreaker":
        """A closed breaker with the same settings."""
        return CircuitBreaker(self._limit, self._first, self._longest, self._clock)

    @property
    def degraded(self) -> bool:
        """Whether the last attempt failed."""
        return self._failures > 0

    def allows(self) -> bool:
        """Whether to try now. While open, one caller is let through after each pause."""
        if self._failures < self._limit:
            return True
        with self._lock:
            if self._clock() < self._until:
                return False
            self._until = self._clock() + self._pause
            return True

    def succeeded(self) -> None:
        """An attempt went well: close."""
        if self._failures:
            with self._lock:
                self._failures, self._pause = 0, self._first

    def failed(self) -> None:
        """An attempt failed: count it, and open when that was one too many."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._limit:
                self._until = self._clock() + self._pause
                self._pause = min(2 * self._pause, self._longest)
