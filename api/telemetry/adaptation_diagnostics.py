"""Rows of the table `adaptations`: made after the response has left, and written by the store's background writer."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from api.telemetry.batch_worker import BatchWorker
from api.telemetry.metrics import ServerMetrics
from recsys_meta.inference.insight.diagnostics import AdaptationDiagnostics, diagnose, finite_or_none
from recsys_meta.inference.ranking.catalogue_sketch import RECALL_AT
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity
from recsys_meta.store.background_writer import BackgroundWriter
from recsys_meta.store.entities.adaptations import NewAdaptation, ServedBy

ANONYMOUS = ""
"""The entity id of rows about entities without one; no real id is empty."""

RECALL_EVERY = 16
"""Batches of which one is looked at for the recall of a model's sketch: all scores are computed for that."""

_CAPACITY = 500
_BATCH_SIZE = 16


class AnsweredRequest(NamedTuple):
    """Record of one answered request.

    `adapted` says that an adaptation took place, from the `support_size` events of `support`. `ms` is its duration.
    `at` is when the request arrived, before anything was read for it: an erasure that comes later has to recognise
    its row as older. `variant` names the arm of a traffic split, if one answered.
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


class DiagnosticsWorker(BatchWorker[AnsweredRequest]):
    """Thread that computes losses and gradient norms of adaptations; when it falls behind, rows are written without.

    It diagnoses the requests that wait for one model in one batch, in a third of the time of one after another, and
    rests nine times as long as it works: the event loop needs the interpreter's lock more. Of a model that makes lists
    in two stages it checks some against all scores.
    """

    rest_ratio = 9.0

    def __init__(self, writer: BackgroundWriter, log: Any, metrics: ServerMetrics) -> None:
        self._writer, self._log, self._metrics = writer, log, metrics
        self._until_check = 0
        self._next: AnsweredRequest | None = None  # taken from the queue, but of another model than its batch
        super().__init__("recsys-meta-diagnoser", _CAPACITY)

    def put(self, request: AnsweredRequest) -> None:
        """Queue a request for diagnosis, or write its row at once where there is nothing to diagnose. Never waits."""
        has_steps = request.adapted and request.support is not None and request.support_size
        if not has_steps or not self._enqueue(request):
            self._writer.put(adaptation_row(request, None))

    def _work(self, batch: Sequence[AnsweredRequest]) -> None:
        for request, diagnostics in zip(batch, self._diagnose(batch), strict=True):
            self._writer.put(adaptation_row(request, diagnostics))
        if batch[0].recommender.sketch is not None:
            self._until_check -= 1
            if self._until_check < 0:
                self._until_check = RECALL_EVERY - 1
                self._check_recall(batch[0])

    def _check_recall(self, request: AnsweredRequest) -> None:
        """Count which of a newcomer's ten best items, by all scores, are the ten best of two stages."""
        recommender, support = request.recommender, request.support
        try:
            if support is not None and (recall := recommender.sketch_recall(support)) is not None:
                self._metrics.sketch_items.labels("yes").inc(recall * RECALL_AT)
                self._metrics.sketch_items.labels("no").inc((1 - recall) * RECALL_AT)
        except Exception:  # as diagnostics
            self._log.error("recall cannot be checked", model_version=recommender.version, exc_info=True)

    def _next_batch(self) -> list[AnsweredRequest]:
        """Wait for requests of one model, at most `_BATCH_SIZE`; return none at the end."""
        first = self._next or self._queue.get()
        self._next = None
        batch = [] if first is None else [first]
        while batch and len(batch) < _BATCH_SIZE:
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                break
            if request is None:
                self._is_ending = True
                break
            if request.recommender is not batch[0].recommender:
                self._next = request
                break
            batch.append(request)
        return batch

    def _diagnose(self, batch: Sequence[AnsweredRequest]) -> Sequence[AdaptationDiagnostics | None]:
        recommender = batch[0].recommender
        try:
            return diagnose(recommender, [request.support for request in batch if request.support is not None])
        except Exception:  # diagnostics are optional: their failure must not end the thread
            if len(batch) > 1:  # one request may have failed all: diagnose each alone
                return [diagnostics for request in batch for diagnostics in self._diagnose([request])]
            self._log.error("diagnosis failed", model_version=recommender.version, exc_info=True)
            return [None]


def adaptation_row(request: AnsweredRequest, diagnostics: AdaptationDiagnostics | None) -> NewAdaptation:
    """Return the row of one request; values that are not finite are left out."""
    return NewAdaptation(
        model_version=request.recommender.version,
        kind=request.kind,
        entity=request.entity,
        support_size=request.support_size,
        steps=diagnostics.steps if diagnostics else 0,
        loss_before=finite_or_none(diagnostics.loss_before) if diagnostics else None,
        loss_after=finite_or_none(diagnostics.loss_after) if diagnostics else None,
        gradient_norm=finite_or_none(diagnostics.gradient_norm) if diagnostics else None,
        ms=request.ms,
        served_by=request.served_by,
        created=request.at,
        variant=request.variant,
    )
