"""A bounded queue in front of the database, so that nothing on the hot path waits for SQL.

What does not fit is dropped, counted and said; while the database is away rows wait within the bound.
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
from recsys_meta.store.tracking.runs import CurriculumPoint, MetricPoint, log_curriculum, log_metrics

Row = MetricPoint | CurriculumPoint | NewAdaptation | NewExploration
Sink = Callable[[Sequence[Row]], None]

log = logging.getLogger(__name__)


def to_database(engine: Engine) -> Sink:
    """A sink that writes each batch in one transaction."""

    def write(rows: Sequence[Row]) -> None:
        with session(engine) as open_session:
            log_metrics(open_session, [row for row in rows if isinstance(row, MetricPoint)])
            log_curriculum(open_session, [row for row in rows if isinstance(row, CurriculumPoint)])
            save_adaptations(open_session, [row for row in rows if isinstance(row, NewAdaptation)])
            save_explorations(open_session, [row for row in rows if isinstance(row, NewExploration)])

    return write


class BackgroundWriter:
    """Hands rows to a sink from a thread of its own.

    ``capacity`` and ``batch`` count rows; ``interval`` is how long a row waits for company, ``backoff`` and
    ``longest_backoff`` how long the first and the longest pause after an outage is, in seconds. A sink that raises
    Unavailable is tried again; any other error drops the rows that cause it, and those alone.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        capacity: int = 10_000,
        batch: int = 500,
        interval: float = 0.5,
        backoff: float = 0.2,
        longest_backoff: float = 10.0,
    ) -> None:
        if capacity < 1 or batch < 1:
            raise ValueError("a writer needs room for at least one row")
        self._sink, self._capacity, self._batch = sink, capacity, batch
        self._interval, self._backoff, self._longest = interval, backoff, longest_backoff
        self._rows: deque[Row] = deque()
        self._changed = threading.Condition()
        self._busy = 0  # rows in the batch that is being written
        self._hurry = self._again = self._closed = False
        self._dropped: Counter[str] = Counter()
        self._written = self._accepted = 0
        self._said = float("-inf")
        self._unavailable = False
        self._thread = threading.Thread(target=self._run, name="recsys-meta-writer", daemon=True)
        self._thread.start()

    def put(self, row: Row) -> bool:
        """Queue a row without waiting; False where it was dropped because the queue is full or closed."""
        with self._changed:
            if not self._closed and len(self._rows) + self._busy < self._capacity:
                self._rows.append(row)
                self._accepted += 1
                if len(self._rows) == 1 or len(self._rows) >= self._batch:
                    self._changed.notify_all()
                return True
        self._drop("closed" if self._closed else "full", 1)
        return False

    @property
    def dropped(self) -> int:
        """Rows lost since the start, for whatever reason."""
        return self._dropped.total()

    @property
    def written(self) -> int:
        """Rows that the sink took."""
        return self._written

    @property
    def waiting(self) -> int:
        """Rows not written yet."""
        return len(self._rows) + self._busy

    @property
    def degraded(self) -> bool:
        """Whether the last attempt to write found the database away."""
        return self._unavailable

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until the rows queued so far are written or dropped; False where it takes over ``timeout`` seconds."""
        with self._changed:
            self._hurry = self._again = bool(self.waiting)
            self._changed.notify_all()
            target = self._accepted  # and no further: others may go on putting rows
            return self._changed.wait_for(lambda: self._accepted - self.waiting >= target, timeout)

    def discard(self, match: Callable[[Row], bool], timeout: float = 10.0) -> int:
        """Take rows out of the queue, as an erasure must; answers how many. First waits, for at most ``timeout``
        seconds, for a batch that is being written; one that waits out an outage is in the queue and found."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy, timeout)
            kept = [row for row in self._rows if not match(row)]
            removed = len(self._rows) - len(kept)
            self._rows = deque(kept)
            self._changed.notify_all()
            return removed

    def close(self, timeout: float = 10.0) -> bool:
        """Write what waits, for at most ``timeout`` seconds, and stop. False where rows had to be dropped."""
        done = self.flush(timeout)
        with self._changed:
            self._closed = True
            left = len(self._rows)
            self._rows.clear()
            self._changed.notify_all()
        if left:
            self._drop("closed", left)
        self._thread.join(timeout)
        return done and not left

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        pause = self._backoff
        while (batch := self._take()) is not None:
            left = self._write(batch)
            with self._changed:
                self._busy = 0
                if self._closed:
                    self._drop("closed", len(left))
                    return
                self._rows.extendleft(reversed(left))
                self._changed.notify_all()
                if left:
                    self._hurry, self._again = True, False
                    self._changed.wait_for(lambda: self._closed or self._again, pause)
            pause = min(2 * pause, self._longest) if left else self._backoff

    def _take(self) -> list[Row] | None:
        """The next batch, after its time or its size has come; None once closed."""
        with self._changed:
            while not self._closed:
                self._changed.wait_for(lambda: self._closed or self._rows)
                self._changed.wait_for(self._is_due, self._interval)
                batch = [self._rows.popleft() for _ in range(min(self._batch, len(self._rows)))]
                self._hurry = self._hurry and bool(self._rows)
                if batch:  # none where `discard` was quicker
                    self._busy = len(batch)
                    return batch
        return None

    def _is_due(self) -> bool:
        return self._closed or self._hurry or len(self._rows) >= self._batch

    def _write(self, batch: Sequence[Row]) -> Sequence[Row]:
        """Hand over a batch; answers the rows to try again since the database is away. Refused rows are dropped."""
        try:
            self._sink(batch)
        except StoreUnavailable as error:
            if not self._unavailable:
                log.warning("rows wait for the database: %s", error)
            self._unavailable = True
            return batch
        except Exception as error:  # one bad row must not end the thread, nor take its neighbours with it
            if len(batch) == 1:
                self._drop("refused", 1, error)
                return ()
            middle = len(batch) // 2
            return [*self._write(batch[:middle]), *self._write(batch[middle:])]
        self._unavailable = False
        self._written += len(batch)
        return ()

    def _drop(self, reason: str, rows: int, error: Exception | None = None) -> None:
        """Count, and say so at most once a second."""
        with self._changed:
            self._dropped[reason] += rows
            quiet = not rows or time.monotonic() - self._said < 1.0
            if not quiet:
                self._said = time.monotonic()
        if not quiet:
            why = f": {error}" if isinstance(error, RecsysMetaError | ValueError) else ""
            log.warning("rows dropped so far: %s%s", dict(self._dropped), why)
