"""Figures for Prometheus, in a registry of the application's own."""

from __future__ import annotations

import os
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
_SHARED = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """Counters of one process. With PROMETHEUS_MULTIPROC_DIR set, `render` adds those of its sister workers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter("recsys_meta_requests", "Requests answered", ("route", "method", "status"), registry=r)
        self.seconds = Histogram(
            "recsys_meta_request_seconds", "Time to answer", ("route",), buckets=_SECONDS, registry=r
        )
        self.answers = Counter(
            "recsys_meta_answers", "Lists served, and from which cache", ("model", "served_by", "cache"), registry=r
        )
        self.adapting = Histogram(
            "recsys_meta_adapt_seconds", "Time to adapt and rank", ("model",), buckets=_SECONDS, registry=r
        )
        self.degraded = Counter(
            "recsys_meta_degraded_answers", "Answers without a dependency", ("missing",), registry=r
        )
        self.events = Counter("recsys_meta_events", "Events received, by outcome", ("outcome",), registry=r)
        self.swaps = Counter("recsys_meta_model_swaps", "Versions taken into service", ("model",), registry=r)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A gauge that is read when asked for. Left out across workers, where nobody would read it."""
        if _SHARED not in os.environ:
            Gauge(f"recsys_meta_{name}", about, registry=self.registry).set_function(value)

    def render(self) -> bytes:
        """The text format."""
        if _SHARED not in os.environ:
            return generate_latest(self.registry)
        every = CollectorRegistry()
        MultiProcessCollector(every)  # type: ignore[no-untyped-call]
        return generate_latest(every)
