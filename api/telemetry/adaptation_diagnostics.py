"""A row for every adaptation, made after the answer has left and written by the store's background writer."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from recsys_meta.inference.recommender import AdaptationDiagnostics, EncodedEntity, Recommender
from recsys_meta.store.background_writer import BackgroundWriter
from recsys_meta.store.entities.adaptations import NewAdaptation, ServedBy

ANONYMOUS = ""
"""The entity of rows about newcomers without an id; no id is empty."""

_CAPACITY = 500
_TOGETHER = 16
_REST = 9.0  # times as long as it worked
_LONGEST_REST = 2.0  # seconds


class AnsweredRequest(NamedTuple):
    """What was done for one request. `adapted` says that there is something to diagnose, for `known`.

    `at` is when the request came, before anything was read for it: an erasure that comes later must know its row as
    older. `variant` is the arm that answered, if one did.
    """

    recommender: Recommender
    kind: str
    entity: str
    served_by: ServedBy
    ms: float
    support_size: int
    at: datetime
    support: EncodedEntity | None = None
    adapted: bool = False
    variant: str | None = None


class DiagnosticsWorker:
    """A thread that works out losses and gradient norms. What it has no time for is written without them.

    It takes what waits together, for a third of the time of one after another, and rests nine times as long as it
    works: the event loop needs the interpreter's lock more.
    """

    def __init__(self, writer: BackgroundWriter, log: Any) -> None:
        self._writer, self._log = writer, log
        self._queue: queue.Queue[AnsweredRequest | None] = queue.Queue(_CAPACITY)
        self._closing = threading.Event()
        self._held: AnsweredRequest | None = None  # for another model than those before it
        self._ending = False
        self.skipped = 0  # rows written without figures, because the queue was full
        self._thread = threading.Thread(target=self._run, name="recsys-meta-diagnoser", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows not worked out yet."""
        return self._queue.qsize()

    def put(self, done: AnsweredRequest) -> None:
        """Take note of what was done, without waiting."""
        if not done.adapted or done.support is None or not done.support_size:
            self._writer.put(adaptation_row(done, None))
            return
        try:
            self._queue.put_nowait(done)
        except queue.Full:
            self.skipped += 1
            self._writer.put(adaptation_row(done, None))

    def close(self, timeout: float = 5.0) -> None:
        """Finish what waits, for at most `timeout` seconds."""
        self._closing.set()
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        while batch := self._take():
            began = time.perf_counter()
            for done, found in zip(batch, self._diagnose(batch), strict=True):
                self._writer.put(adaptation_row(done, found))
            self._closing.wait(min(_REST * (time.perf_counter() - began), _LONGEST_REST))

    def _take(self) -> list[AnsweredRequest]:
        """What waits for the same model, at most `_TOGETHER`; nothing at the end."""
        if self._ending:
            return []
        first = self._held or self._queue.get()
        self._held = None
        batch = [] if first is None else [first]
        while batch and len(batch) < _TOGETHER:
            try:
                done = self._queue.get_nowait()
            except queue.Empty:
                break
            if done is None:
                self._ending = True
                break
            if done.recommender is not batch[0].recommender:
                self._held = done
                break
            batch.append(done)
        return batch

    def _diagnose(self, batch: Sequence[AnsweredRequest]) -> Sequence[AdaptationDiagnostics | None]:
        try:
            return batch[0].recommender.diagnose([done.support for done in batch if done.support is not None])
        except Exception:  # figures are a courtesy: their failure must not end the thread
            if len(batch) > 1:  # one may have spoilt it for all
                return [found for done in batch for found in self._diagnose([done])]
            self._log.error("diagnosis failed", model_version=batch[0].recommender.version, exc_info=True)
            return [None]


def adaptation_row(done: AnsweredRequest, found: AdaptationDiagnostics | None) -> NewAdaptation:
    """The row of one request; figures that are not finite are left out."""
    return NewAdaptation(
        model_version=done.recommender.version,
        kind=done.kind,
        entity=done.entity,
        support_size=done.support_size,
        steps=found.steps if found else 0,
        loss_before=finite_or_none(found.loss_before) if found else None,
        loss_after=finite_or_none(found.loss_after) if found else None,
        gradient_norm=finite_or_none(found.gradient_norm) if found else None,
        ms=done.ms,
        served_by=done.served_by,
        created=done.at,
        variant=done.variant,
    )


def finite_or_none(value: float) -> float | None:
    """The value, None where it is not a finite number."""
    return value if math.isfinite(value) else None
