"""Prometheus metrics, in a registry of the application's own, added up over the worker processes of a server.

With PROMETHEUS_MULTIPROC_DIR set (`recsys-meta serve --workers N` does so) each worker keeps its metrics in files of
that directory, and whichever worker is scraped answers for all. Counters outlive the worker that counted; gauges do
not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
GaugeAggregation = Literal["sum", "min", "max"]
"""Reduction of a gauge over the workers."""

_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
_MODES: dict[GaugeAggregation, Literal["livesum", "livemin", "livemax"]] = {
    "sum": "livesum",
    "min": "livemin",
    "max": "livemax",
}


class ServerMetrics:
    """Metrics of one process, and the exposition text for all workers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter("recsys_meta_requests", "Requests answered", ("route", "method", "status"), registry=r)
        self.request_seconds = Histogram(
            "recsys_meta_request_seconds", "Time to answer", ("route",), buckets=_BUCKETS_S, registry=r
        )
        self.responses = Counter(
            "recsys_meta_answers", "Lists served, and from which cache", ("model", "served_by", "cache"), registry=r
        )
        self.adapt_seconds = Histogram(
            "recsys_meta_adapt_seconds", "Time to adapt and rank", ("model",), buckets=_BUCKETS_S, registry=r
        )
        self.degraded_responses = Counter(
            "recsys_meta_degraded_answers", "Answers without a dependency", ("missing",), registry=r
        )
        self.events = Counter("recsys_meta_events", "Events received, by outcome", ("outcome",), registry=r)
        self.model_swaps = Counter("recsys_meta_model_swaps", "Versions taken into service", ("model",), registry=r)
        self.sketch_items = Counter(
            "recsys_meta_sketch_items",
            "Best items by all scores, by whether two stages list them",
            ("listed",),
            registry=r,
        )
        self._directory = os.environ.get(MULTIPROCESS_VARIABLE)
        self._gauges: list[tuple[Gauge, Callable[[], float]]] = []
        # Children by labels: finding the child takes prometheus_client longer than counting in it. Bounded, since the
        # labels are: routes are templates, statuses and caches are few, models are those of the registry.
        self._request_children: dict[tuple[str, str, int], tuple[Any, Any]] = {}
        self._response_children: dict[tuple[str, str, str], Any] = {}
        self._adapt_children: dict[str, Any] = {}

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request and its time."""
        children = self._request_children.get((route, method, status))
        if children is None:
            children = self.requests.labels(route, method, str(status)), self.request_seconds.labels(route)
            self._request_children[route, method, status] = children
        counter, histogram = children
        counter.inc()
        histogram.observe(seconds)

    def count_response(self, model: str, served_by: str, cache: str) -> None:
        """Count a recommendation by the model that made it, its origin and the cache it came from."""
        child = self._response_children.get((model, served_by, cache))
        if child is None:
            child = self._response_children[model, served_by, cache] = self.responses.labels(model, served_by, cache)
        child.inc()

    def observe_adaptation(self, model: str, seconds: float) -> None:
        """Count the time that adapting with a model, and ranking, took."""
        child = self._adapt_children.get(model)
        if child is None:
            child = self._adapt_children[model] = self.adapt_seconds.labels(model)
        child.observe(seconds)

    def add_gauge(
        self, name: str, about: str, value: Callable[[], float], aggregation: GaugeAggregation = "sum"
    ) -> None:
        """Register a gauge that reads `value`; over several workers it shows their sum, least or greatest."""
        gauge = Gauge(f"recsys_meta_{name}", about, registry=self.registry, multiprocess_mode=_MODES[aggregation])
        if self._directory is None:
            gauge.set_function(value)
        else:
            self._gauges.append((gauge, value))

    def write_gauges(self) -> None:
        """Write the gauges for the other workers, which cannot read this process when they are scraped."""
        for gauge, value in self._gauges:
            gauge.set(value())

    def render(self) -> bytes:
        """Return the Prometheus text format, of all workers."""
        if self._directory is None:
            return generate_latest(self.registry)
        self.write_gauges()
        _remove_dead_gauges(Path(self._directory))
        all_workers = CollectorRegistry()
        MultiProcessCollector(all_workers, self._directory)  # type: ignore[no-untyped-call]
        return generate_latest(all_workers)


def _remove_dead_gauges(directory: Path) -> None:
    """Remove the gauges of workers that were killed, which could not remove their own."""
    for pid in {path.stem.rpartition("_")[2] for path in directory.glob("gauge_live*.db")}:
        if pid.isdigit() and not _is_alive(int(pid)):
            try:
                mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]
            except FileNotFoundError:  # another worker was quicker
                continue


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
