"""A thread that works through a bounded queue in batches, beside the responses."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

Entry = TypeVar("Entry")

_MAX_REST_S = 2.0


class BatchWorker(ABC, Generic[Entry]):
    """Base of such threads: a subclass says what a batch is, and works on it.

    After a batch the thread rests `rest_ratio` times as long as that took, two seconds at most: the event loop needs
    the interpreter's lock more. A subclass makes its own fields before it calls the constructor, which starts the
    thread. None in the queue is its end; who takes it sets `_is_ending`.
    """

    rest_ratio = 4.0

    def __init__(self, name: str, capacity: int) -> None:
        self._is_ending = False
        self._accepted = self._finished = self.skipped = 0  # `skipped`: entries left out, because the queue was full
        self._queue: queue.Queue[Entry | None] = queue.Queue(capacity)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Return the number of entries that are not worked on to the end yet."""
        return self._accepted - self._finished

    def _enqueue(self, entry: Entry) -> bool:
        """Queue an entry without waiting; return False, and count it, if the queue is full."""
        self._accepted += 1  # before the thread can have finished it
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            self._accepted -= 1
            self.skipped += 1
            return False
        return True

    def close(self, timeout: float = 5.0) -> None:
        """Work on what is queued, for at most `timeout` seconds, and end the thread."""
        self._closing.set()
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._is_ending and (batch := self._next_batch()):
            began = time.perf_counter()
            self._work(batch)
            self._finished += len(batch)
            self._closing.wait(min(self.rest_ratio * (time.perf_counter() - began), _MAX_REST_S))

    @abstractmethod
    def _next_batch(self) -> Sequence[Entry]:
        """Wait for a batch; return none at the end."""

    @abstractmethod
    def _work(self, batch: Sequence[Entry]) -> None:
        """Work on a batch. No error may end the thread."""
