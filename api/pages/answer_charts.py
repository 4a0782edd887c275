"""Charts of answers: who served them, how long it took, how well the model fits what it was told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from api.pages.charts import ChartSeries, PageChart
from recsys_meta.store.entities.adaptations import AnswerTiming

SERVERS = ("adapted", "cache", "prior", "popular")
"""Ways in which a list is made, in the order of pages."""


class LatencyRow(NamedTuple):
    """Latency of the answers of one way to serve them, milliseconds."""

    served_by: str
    answers: int
    median: float
    p95: float
    slowest: float


def traffic_chart(answers: Sequence[AnswerTiming]) -> PageChart:
    """Count answers by who served them."""
    counts = {name: sum(a.answers for a in answers if a.served_by == name) for name in SERVERS}
    bars = ChartSeries("answers", [float(count) for count in counts.values()])
    return PageChart("Answers by who served them", "served by", "answers", list(counts), [bars], "bar")


def latency_rows(answers: Sequence[AnswerTiming]) -> list[LatencyRow]:
    """Return the latency of each way that occurs. A row that stands for several answers has their mean."""
    rows = []
    for name in SERVERS:
        own = [a for a in answers if a.served_by == name]
        if own:
            median, p95 = np.quantile([a.ms for a in own], (0.5, 0.95))
            count = sum(a.answers for a in own)
            rows.append(LatencyRow(name, count, float(median), float(p95), max(a.ms for a in own)))
    return rows


def latency_chart(answers: Sequence[AnswerTiming]) -> PageChart | None:
    """Draw the median latency of adapting over the events known; None where nothing was adapted."""
    ms = _by_size(answers, lambda a: a.ms)
    if not ms:
        return None
    sizes = sorted(ms)
    median = [float(np.median(ms[n])) for n in sizes]
    return PageChart("Time to adapt", "events known", "ms, median", sizes, [ChartSeries("ms", median, is_main=True)])


def support_fit_chart(answers: Sequence[AnswerTiming]) -> PageChart | None:
    """Draw the loss of the support before and after adapting, over its size; None where that is not known."""
    known = [a for a in answers if a.loss_before is not None and a.loss_after is not None]
    before, after = _by_size(known, lambda a: a.loss_before or 0.0), _by_size(known, lambda a: a.loss_after or 0.0)
    if not before:
        return None
    sizes = sorted(before)
    series = [
        ChartSeries(name, [fmean(values[n]) for n in sizes]) for name, values in (("before", before), ("after", after))
    ]
    return PageChart("Loss of the events that were told", "events known", "mean loss", sizes, series)


def _by_size(answers: Sequence[AnswerTiming], value: Callable[[AnswerTiming], float]) -> dict[int, list[float]]:
    groups: dict[int, list[float]] = defaultdict(list)
    for a in answers:
        if a.served_by == "adapted":
            groups[a.support_size].append(value(a))
    return groups
