"""A bounded queue in front of the database, so that no request waits for SQL.

Rows that do not fit are dropped, counted and logged; while the database is unavailable rows wait within the bound.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from types import TracebackType

from sqlalchemy import Engine

from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.store.database.engine import StoreUnavailable, session
from recsys_meta.store.entities.adaptations import NewAdaptation, save_adaptations
from recsys_meta.store.entities.explorations import NewExploration, save_explorations
from recsys_meta.store.entities.impressions import NewImpression, save_impressions
from recsys_meta.store.entities.outcomes import NewOutcome, save_outcomes
from recsys_meta.store.tracking.runs import CurriculumPoint, MetricPoint, log_curriculum, log_metrics

Row = MetricPoint | CurriculumPoint | NewAdaptation | NewExploration | NewImpression | NewOutcome
Sink = Callable[[Sequence[Row]], None]

log = logging.getLogger(__name__)


def database_sink(engine: Engine) -> Sink:
    """Return a sink that writes each batch of rows in one transaction."""

    def write(rows: Sequence[Row]) -> None:
        with session(engine) as open_session:
            log_metrics(open_session, [row for row in rows if isinstance(row, MetricPoint)])
            log_curriculum(open_session, [row for row in rows if isinstance(row, CurriculumPoint)])
            save_adaptations(open_session, [row for row in rows if isinstance(row, NewAdaptation)])
            save_explorations(open_session, [row for row in rows if isinstance(row, NewExploration)])
            save_impressions(open_session, [row for row in rows if isinstance(row, NewImpression)])
            save_outcomes(open_session, [row for row in rows if isinstance(row, NewOutcome)])

    return write


class BackgroundWriter:
    """Queue that passes rows to a sink in batches, from a thread of its own.

    ``capacity`` and ``batch_size`` count rows; ``interval`` bounds how long a row waits for its batch to fill,
    ``backoff`` and ``max_backoff`` are the first and the longest pause after an outage, in seconds. A batch whose sink
    raises StoreUnavailable is tried again; any other error drops the rows that cause it, and those alone. Raises
    ValueError if ``capacity`` or ``batch_size`` is below 1.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        capacity: int = 10_000,
        batch_size: int = 500,
        interval: float = 0.5,
        backoff: float = 0.2,
        max_backoff: float = 10.0,
    ) -> None:
        if capacity < 1 or batch_size < 1:
            raise ValueError("capacity and batch_size of a background writer must be at least 1")
        self._sink, self._capacity, self._batch_size = sink, capacity, batch_size
        self._interval, self._backoff, self._max_backoff = interval, backoff, max_backoff
        self._rows: deque[Row] = deque()
        self._changed = threading.Condition()
        self._in_flight = 0  # rows in the batch that is being written
        self._flush_now = self._retry_now = self._closed = False
        self._dropped: Counter[str] = Counter()
        self._written = self._accepted = 0
        self._last_warning = float("-inf")
        self._unavailable = False
        self._thread = threading.Thread(target=self._run, name="recsys-meta-writer", daemon=True)
        self._thread.start()

    def put(self, row: Row) -> bool:
        """Queue a row without waiting; return False if it was dropped because the queue is full or closed."""
        with self._changed:
            if not self._closed and len(self._rows) + self._in_flight < self._capacity:
                self._rows.append(row)
                self._accepted += 1
                if len(self._rows) == 1 or len(self._rows) >= self._batch_size:
                    self._changed.notify_all()
                return True
        self._drop("closed" if self._closed else "full", 1)
        return False

    @property
    def dropped(self) -> int:
        """Number of rows lost since the start, for any reason."""
        return self._dropped.total()

    @property
    def written(self) -> int:
        """Number of rows that the sink has accepted."""
        return self._written

    @property
    def waiting(self) -> int:
        """Number of rows not written yet, those in flight included."""
        return len(self._rows) + self._in_flight

    @property
    def degraded(self) -> bool:
        """True if the database was unavailable at the last attempt to write."""
        return self._unavailable

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until the rows queued so far are written or dropped; return False after ``timeout`` seconds."""
        with self._changed:
            self._flush_now = self._retry_now = bool(self.waiting)
            self._changed.notify_all()
            target = self._accepted  # rows that other threads put meanwhile do not count
            return self._changed.wait_for(lambda: self._accepted - self.waiting >= target, timeout)

    def discard(self, match: Callable[[Row], bool], timeout: float = 10.0) -> int:
        """Remove matching rows from the queue, as an erasure must; return how many.

        Waits at most ``timeout`` seconds for a batch that is being written. A batch that waits out an outage is back
        in the queue and is searched too.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight, timeout)
            remaining = [row for row in self._rows if not match(row)]
            count = len(self._rows) - len(remaining)
            self._rows = deque(remaining)
            self._changed.notify_all()
            return count

    def close(self, timeout: float = 10.0) -> bool:
        """Write the queued rows for at most ``timeout`` seconds, and stop; return False if rows had to be dropped."""
        flushed_all = self.flush(timeout)
        with self._changed:
            self._closed = True
            unwritten = len(self._rows)
            self._rows.clear()
            self._changed.notify_all()
        if unwritten:
            self._drop("closed", unwritten)
        self._thread.join(timeout)
        return flushed_all and not unwritten

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        pause = self._backoff
        while (batch := self._next_batch()) is not None:
            unwritten = self._write(batch)
            with self._changed:
                self._in_flight = 0
                if self._closed:
                    self._drop("closed", len(unwritten))
                    return
                self._rows.extendleft(reversed(unwritten))
                self._changed.notify_all()
                if unwritten:
                    self._flush_now, self._retry_now = True, False
                    self._changed.wait_for(lambda: self._closed or self._retry_now, pause)
            pause = min(2 * pause, self._max_backoff) if unwritten else self._backoff

    def _next_batch(self) -> list[Row] | None:
        """Return the next batch once it is full or its interval is over; None after `close`."""
        with self._changed:
            while not self._closed:
                self._changed.wait_for(lambda: self._closed or self._rows)
                self._changed.wait_for(self._is_due, self._interval)
                batch = [self._rows.popleft() for _ in range(min(self._batch_size, len(self._rows)))]
                self._flush_now = self._flush_now and bool(self._rows)
                if batch:  # empty if `discard` took the rows first
                    self._in_flight = len(batch)
                    return batch
        return None

    def _is_due(self) -> bool:
        return self._closed or self._flush_now or len(self._rows) >= self._batch_size

    def _write(self, batch: Sequence[Row]) -> Sequence[Row]:
        """Pass a batch to the sink; return the rows to try again after an outage. Refused rows are dropped."""
        try:
            self._sink(batch)
        except StoreUnavailable as error:
            if not self._unavailable:
                log.warning("rows wait for the database: %s", error)
            self._unavailable = True
            return batch
        except Exception as error:  # one bad row must neither end the thread nor cost the rows beside it
            if len(batch) == 1:
                self._drop("refused", 1, error)
                return ()
            middle = len(batch) // 2
            return [*self._write(batch[:middle]), *self._write(batch[middle:])]
        self._unavailable = False
        self._written += len(batch)
        return ()

    def _drop(self, reason: str, rows: int, error: Exception | None = None) -> None:
        """Count dropped rows, and log the counts at most once a second."""
        with self._changed:
            self._dropped[reason] += rows
            is_quiet = not rows or time.monotonic() - self._last_warning < 1.0
            if not is_quiet:
                self._last_warning = time.monotonic()
        if not is_quiet:
            detail = f": {error}" if isinstance(error, RecsysMetaError | ValueError) else ""
            log.warning("rows dropped so far: %s%s", dict(self._dropped), detail)
