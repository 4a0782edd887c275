"""Outcomes of events: each event that was stored is judged a little later, by the list shown before it and by the state
before it; in a thread of its own, beside the responses."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine

from api.inference.event_join import ArrivedEvent, JoinedEvent, join_events, outcome_row
from api.inference.model_registry import ModelRegistry
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.inference.insight.next_event import NextEventLoss, next_event_losses
from recsys_meta.store.background_writer import BackgroundWriter
from recsys_meta.store.database.engine import reading
from recsys_meta.store.entities.impressions import is_sampled

SETTLE_S = 2.0
"""Time for the lists of every process to reach the database before an event is joined to them, seconds."""

_CAPACITY = 5000
_BATCH_SIZE = 32
_REST_RATIO = 4.0  # rest after a batch, in times of the batch's own duration: the event loop needs the lock more
_MAX_REST_S = 2.0


class OutcomeWorker:
    """Thread that writes the outcomes of events of a sample of the entities, a share of `rate` of them. An event that
    is older than `window_s` seconds when it arrives has no outcome. What does not fit into its queue is left out."""

    def __init__(
        self, engine: Engine, registry: ModelRegistry, writer: BackgroundWriter, log: Any, window_s: float, rate: float
    ) -> None:
        self._engine, self._registry, self._writer, self._log = engine, registry, writer, log
        self._window, self._rate = timedelta(seconds=window_s), rate
        self._queue: queue.Queue[tuple[float, ArrivedEvent] | None] = queue.Queue(_CAPACITY)
        self._closing = threading.Event()
        self._accepted = self._finished = self.skipped = 0
        self._thread = threading.Thread(target=self._run, name="recsys-meta-outcomes", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Return the number of events that are not judged yet."""
        return self._accepted - self._finished

    def put(self, events: Iterable[ArrivedEvent]) -> None:
        """Queue events that were stored. Never waits."""
        for event in events:
            if not is_sampled(event.kind, event.entity, self._rate):
                continue
            try:
                self._queue.put_nowait((time.monotonic() + SETTLE_S, event))
                self._accepted += 1
            except queue.Full:
                self.skipped += 1

    def close(self, timeout: float = 5.0) -> None:
        """Judge what is queued, for at most `timeout` seconds, and end the thread."""
        self._closing.set()
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            self._closing.wait(max(0.0, first[0] - time.monotonic()))
            batch, is_last = self._take_due(first[1])
            began = time.perf_counter()
            try:
                self._judge(batch)
            except Exception as error:  # outcomes are optional: the database may be away
                self.skipped += len(batch)
                self._log.warning("outcomes were left out", events=len(batch), reason=type(error).__name__)
            self._finished += len(batch)
            if is_last:
                return
            self._closing.wait(min(_REST_RATIO * (time.perf_counter() - began), _MAX_REST_S))

    def _take_due(self, first: ArrivedEvent) -> tuple[list[ArrivedEvent], bool]:
        """Return a batch of events that have waited long enough, and whether it is the last one."""
        batch, now = [first], time.monotonic()
        while len(batch) < _BATCH_SIZE:
            try:
                entry = self._queue.queue[0] if not self._closing.is_set() else None
                if entry is not None and entry[0] > now:
                    break
                entry = self._queue.get_nowait()
            except (IndexError, queue.Empty):
                break
            if entry is None:
                return batch, True
            batch.append(entry[1])
        return batch, False

    def _judge(self, batch: Sequence[ArrivedEvent]) -> None:
        """Write the outcomes of a batch; events that judge one model are judged together."""
        groups: dict[tuple[str, str] | None, list[JoinedEvent]] = {}
        with reading(self._engine) as session:
            for one in join_events(session, self._registry, batch, self._window):
                groups.setdefault(None if one.model is None else (one.model.name, one.model.version), []).append(one)
        for group in groups.values():
            for one, loss in zip(group, self._losses(group), strict=True):
                outcome = outcome_row(one, loss)
                if outcome is not None:
                    self._writer.put(outcome)

    def _losses(self, joined: Sequence[JoinedEvent]) -> Sequence[NextEventLoss | None]:
        model = joined[0].model
        if model is None or model.sample is None:
            return [None] * len(joined)
        try:
            return next_event_losses(model.recommender, [one.case for one in joined])
        except Exception as error:
            if len(joined) > 1:  # one event may have failed all: judge each alone
                return [loss for one in joined for loss in self._losses([one])]
            if not isinstance(error, RecsysMetaError):
                self._log.error("judging an event failed", model_version=model.version, exc_info=True)
            return [None]
