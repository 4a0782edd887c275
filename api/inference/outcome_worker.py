"""Outcomes of events: each event that was stored is judged a little later, by the list shown before it and by the state
before it; in a thread of its own, beside the responses."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine

from api.inference.event_join import ArrivedEvent, JoinedEvent, join_events, outcome_row
from api.inference.model_registry import ModelRegistry
from api.telemetry.batch_worker import BatchWorker
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.inference.insight.next_event import NextEventLoss, next_event_losses
from recsys_meta.store.background_writer import BackgroundWriter
from recsys_meta.store.database.engine import reading
from recsys_meta.store.entities.impressions import is_sampled

SETTLE_S = 2.0
"""Time for the lists of every process to reach the database before an event is joined to them, seconds."""

_CAPACITY = 5000
_BATCH_SIZE = 32
_FLUSH_S = 2.0  # how long lists that still wait for the database are waited for, seconds


class OutcomeWorker(BatchWorker[tuple[float, ArrivedEvent]]):
    """Thread that writes the outcomes of events of a sample of the entities, a share of `rate` of them. An event that
    is older than `window_s` seconds when it arrives has no outcome. What does not fit into its queue is left out."""

    def __init__(
        self, engine: Engine, registry: ModelRegistry, writer: BackgroundWriter, log: Any, window_s: float, rate: float
    ) -> None:
        self._engine, self._registry, self._writer, self._log = engine, registry, writer, log
        self._window, self._rate = timedelta(seconds=window_s), rate
        super().__init__("recsys-meta-outcomes", _CAPACITY)

    def put(self, events: Iterable[ArrivedEvent]) -> None:
        """Queue events that were stored. Never waits."""
        for event in events:
            if is_sampled(event.kind, event.entity, self._rate):
                self._enqueue((time.monotonic() + SETTLE_S, event))

    def _next_batch(self) -> list[tuple[float, ArrivedEvent]]:
        """Wait for an event, and until the lists before it are in the database; return those that are due by then."""
        first = self._queue.get()
        if first is None:
            return []
        self._closing.wait(max(0.0, first[0] - time.monotonic()))
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
                self._is_ending = True
                break
            batch.append(entry)
        return batch

    def _work(self, batch: Sequence[tuple[float, ArrivedEvent]]) -> None:
        try:
            if self._closing.is_set() or self._writer.degraded:  # lists may be behind their events
                self._writer.flush(_FLUSH_S)
            self._judge([event for _, event in batch])
        except Exception as error:  # outcomes are optional: the database may be away
            self.skipped += len(batch)
            self._log.warning("outcomes were left out", events=len(batch), reason=type(error).__name__)

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
