"""Circuit breaker: after some failures in a row no call is tried for a pause, then a single one is."""

import threading
import time
from collections.abc import Callable


class CircuitBreaker:
    """Breaker that opens after ``failures`` failures in a row, for ``pause`` seconds, doubling up to ``max_pause``.

    Safe for threads. ``clock`` returns seconds that never go back.
    """

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
        """Return a closed breaker with the same settings."""
        return CircuitBreaker(self._threshold, self._first_pause, self._max_pause, self._clock)

    @property
    def degraded(self) -> bool:
        """True if the last attempt failed."""
        return self._failures > 0

    def allow_request(self) -> bool:
        """Return whether to try now. While the breaker is open, one caller is let through after each pause."""
        if self._failures < self._threshold:
            return True
        with self._lock:
            if self._clock() < self._open_until:
                return False
            self._open_until = self._clock() + self._pause
            return True

    def record_success(self) -> None:
        """Record a success: close the breaker and reset its pause."""
        if self._failures:
            with self._lock:
                self._failures, self._pause = 0, self._first_pause

    def record_failure(self) -> None:
        """Record a failure: count it, and open the breaker once the threshold is reached."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._threshold:
                self._open_until = self._clock() + self._pause
                self._pause = min(2 * self._pause, self._max_pause)
