"""Figures for Prometheus, in a registry of the application's own, added up over sister workers.

With PROMETHEUS_MULTIPROC_DIR set (`recsys-meta serve --workers N` does so) each worker keeps its figures in files
there, and whichever is asked answers for all. Counters of a worker that died go on counting; its gauges go with it.
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

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)


class ServerMetrics:
    """What one process counts, and the text for all of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter("recsys_meta_requests", "Requests answered", ("route", "method", "status"), registry=r)
        self.request_seconds = Histogram(
            "recsys_meta_request_seconds", "Time to answer", ("route",), buckets=_SECONDS, registry=r
        )
        self.responses = Counter(
            "recsys_meta_answers", "Lists served, and from which cache", ("model", "served_by", "cache"), registry=r
        )
        self.adapt_seconds = Histogram(
            "recsys_meta_adapt_seconds", "Time to adapt and rank", ("model",), buckets=_SECONDS, registry=r
        )
        self.degraded_responses = Counter(
            "recsys_meta_degraded_answers", "Answers without a dependency", ("missing",), registry=r
        )
        self.events = Counter("recsys_meta_events", "Events received, by outcome", ("outcome",), registry=r)
        self.model_swaps = Counter("recsys_meta_model_swaps", "Versions taken into service", ("model",), registry=r)
        self._shared = os.environ.get(MULTIPROCESS_VARIABLE)
        self._watched: list[tuple[Gauge, Callable[[], float]]] = []
        # Finding the child of a label takes longer than counting in it.
        self._counted: dict[tuple[str, str, int], tuple[Any, Any]] = {}
        self._answered: dict[tuple[str, str, str], Any] = {}

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        found = self._counted.get((route, method, status))
        if found is None:
            found = self.requests.labels(route, method, str(status)), self.request_seconds.labels(route)
            self._counted[route, method, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def count_response(self, model: str, served_by: str, cache: str) -> None:
        """Count an answer about a newcomer."""
        found = self._answered.get((model, served_by, cache))
        if found is None:
            found = self._answered[model, served_by, cache] = self.responses.labels(model, served_by, cache)
        found.inc()

    def add_gauge(self, name: str, about: str, value: Callable[[], float], across: GaugeAggregation = "sum") -> None:
        """A gauge; over several workers their sum, least or greatest."""
        gauge = Gauge(f"recsys_meta_{name}", about, registry=self.registry, multiprocess_mode=_MODES[across])
        if self._shared is None:
            gauge.set_function(value)
        else:
            self._watched.append((gauge, value))

    def write_gauges(self) -> None:
        """Write down the gauges for sister workers, who cannot ask this process when they are asked."""
        for gauge, value in self._watched:
            gauge.set(value())

    def render(self) -> bytes:
        """The text format."""
        if self._shared is None:
            return generate_latest(self.registry)
        self.write_gauges()
        _bury(Path(self._shared))
        every = CollectorRegistry()
        MultiProcessCollector(every, self._shared)  # type: ignore[no-untyped-call]
        return generate_latest(every)


_MODES: dict[GaugeAggregation, Literal["livesum", "livemin", "livemax"]] = {
    "sum": "livesum",
    "min": "livemin",
    "max": "livemax",
}


def _bury(folder: Path) -> None:
    """Drop the gauges of workers that were killed: nobody else would."""
    for pid in {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db")}:
        if pid.isdigit() and not _lives(int(pid)):
            try:
                mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
            except FileNotFoundError:  # a sister was quicker
                continue


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
