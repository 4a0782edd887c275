"""Paired tests of a comparison: those that reports show and the database holds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from recsys_meta.evaluation.newcomer_groups import LEAST_NEWCOMERS, NewcomerGroup, newcomer_groups
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.store.tracking.paired_tests import NewPairedTest, Reference, Verdict

if TYPE_CHECKING:
    from pipelines.experiments.comparison import Comparison, MethodCurves


ROUNDING = 1e-6
"""Smallest difference that is one: where labels are all alike methods differ by the rounding of single precision."""
ROUNDING_OF_ERRORS = {"rmse": 1e-9, "mae": 2e-5}
"""The same of errors in units of the labels, squared for RMSE. Small, since labels may be small."""


def paired_tests(result: Comparison) -> list[NewPairedTest]:
    """Test each method against the best baseline of each point and against itself without adapting, where that was
    measured: in the first metric, the first learner in every metric; and the first learner by group of newcomers.

    Groups are compared with the baseline that is best for all newcomers. Intervals and p-values are not corrected for
    the number of tests.
    """
    return [*_tests_of_all(result), *_tests_by_group(result)]


def verdict(metric: str, difference: float, low: float, high: float) -> Verdict:
    """Return whether a method is better or worse than another by the interval of their difference, or neither."""
    if not (low > 0 or high < 0) or abs(difference) < ROUNDING_OF_ERRORS.get(metric, ROUNDING):
        return "open"
    return "better" if (difference > 0) != (metric in LOWER_IS_BETTER) else "worse"


def _tests_of_all(result: Comparison) -> Iterator[NewPairedTest]:
    for metric in result.metrics:
        methods = result.methods if metric == result.metrics[0] else _first_learner(result)
        for method in methods:
            for shots in result.shots:
                for reference, other in _references(result, method, shots, metric):
                    yield from _test(result, method, other, reference, shots, metric)


def _tests_by_group(result: Comparison) -> Iterator[NewPairedTest]:
    for method in _first_learner(result):
        newcomers = {seed: result.newcomers[seed] for seed in method.curves if seed in result.newcomers}
        for shots in result.shots if len(newcomers) == len(method.curves) else ():
            others = list(_references(result, method, shots, result.metrics[0]))
            for group in newcomer_groups(newcomers, shots) if others else ():
                for reference, other in others:
                    yield from _test(result, method, other, reference, shots, result.metrics[0], group)


def _first_learner(result: Comparison) -> list[MethodCurves]:
    return [m for m in result.methods if m.role != "baseline"][:1]


def _references(
    result: Comparison, method: MethodCurves, shots: int, metric: str
) -> Iterator[tuple[Reference, MethodCurves]]:
    """Yield the methods that a method is compared with at a point."""
    best = result.best_baseline(shots, metric)
    if best is not None and best is not method:
        yield "baseline", best
    for other in result.methods:
        if other.name == f"{method.name}-unadapted":
            yield "unadapted", other


def _test(
    result: Comparison,
    method: MethodCurves,
    other: MethodCurves,
    reference: Reference,
    shots: int,
    metric: str,
    group: NewcomerGroup | None = None,
) -> Iterator[NewPairedTest]:
    """Yield the test of two methods at a point; none where no newcomer reaches it, or too few of a group."""
    if group is None:
        test, place, least = result.difference(method, other, shots, metric), {}, 1
    else:
        method, other = (_restrict(m, group, shots, metric) for m in (method, other))
        test, least = result.paired_difference(method, other, shots, metric), LEAST_NEWCOMERS
        place = {"segment": group.segment, "part": group.part, "part_from": group.low, "part_to": group.high}
    if test.n >= least:
        yield NewPairedTest(
            result.dataset,
            result.scenario,
            method.name,
            other.name,
            reference,
            metric,
            shots,
            result.mean(method, shots, metric),
            result.mean(other, shots, metric),
            test.difference,
            test.low,
            test.high,
            test.p if math.isfinite(test.difference) else math.nan,
            verdict(metric, test.difference, test.low, test.high),
            len(method.curves),
            test.n,
            **place,  # type: ignore[arg-type]
        )


def _restrict(method: MethodCurves, group: NewcomerGroup, shots: int, metric: str) -> MethodCurves:
    """Curves of a method over a group of newcomers, with one point and one metric."""
    curves = {
        seed: replace(c, values={shots: {metric: group.restrict(seed, c.entities, c.values[shots][metric])}})
        for seed, c in method.curves.items()
    }
    return replace(method, curves=curves)
