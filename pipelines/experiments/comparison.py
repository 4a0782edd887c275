"""Comparison: curves of many methods on the same episodes, as evaluations for SQL and JSON, with paired tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

import numpy as np

from pipelines.experiments.comparison_tests import paired_tests
from pipelines.experiments.method_origin import UNKNOWN, MethodOrigin, common_origin
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.evaluation.newcomers import Newcomers
from recsys_meta.metrics.bootstrap import Values, mean_over_seeds, paired_difference_over_seeds, summarise_seeds
from recsys_meta.metrics.interval import ConfidenceInterval
from recsys_meta.metrics.pooled_metrics import RowSample
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.models.bundle import Bundle
from recsys_meta.store.tracking.evaluations import NewEvaluation, Role
from recsys_meta.store.tracking.paired_tests import NewPairedTest

MOST_IN_PAIRS = 8
"""Most learners of a comparison that are compared with one another, pair by pair."""


@dataclass(frozen=True)
class MethodCost:
    """Cost of a method: seconds of wall and of processor time that training takes, mean over seeds, with all that is
    chosen before and after it; numbers in the parameters; bytes of the state of a newcomer with the most shots. None:
    not measured.

    What several methods share is counted for the first of them alone: baselines that are members of an ensemble.
    """

    seconds: float
    processor_seconds: float | None = None
    parameters: int | None = None
    state_bytes: int | None = None


@dataclass(frozen=True)
class MethodCurves:
    """Method with a curve for each seed, what to warn of, where it comes from, and for a learner the version of each
    seed's bundle."""

    name: str
    role: Role
    curves: Mapping[int, ColdStartCurve]
    note: str = ""
    cost: MethodCost | None = None
    versions: Mapping[int, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    origins: Mapping[int, MethodOrigin] = field(default_factory=dict)

    def origin(self, seed: int | None) -> MethodOrigin:
        """Origin of a seed's points, or what those of all seeds have in common."""
        seeds = list(self.curves) if seed is None else [seed]
        return common_origin([self.origins.get(s, UNKNOWN) for s in seeds])

    def version(self, seed: int | None) -> str | None:
        """Bundle version of a seed's points; None for the mean over several seeds."""
        seeds = list(self.curves) if seed is None else [seed]
        return self.versions.get(seeds[0]) if len(seeds) == 1 else None


@dataclass(frozen=True)
class MethodFailure:
    """Failure of a method: the first seed that it failed with, and the reason. None of its seeds is in any result."""

    method: str
    seed: int
    reason: str


@dataclass(frozen=True)
class MethodPoints:
    """Metric of a method or bound at each point of the curve: mean over seeds, and its 95% interval over newcomers."""

    name: str
    role: Role | Literal["bound"]
    points: tuple[ConfidenceInterval, ...]


@dataclass(frozen=True)
class BoundCurves:
    """Predictor that knows more than any method may, with a curve for each seed: a bound, neither baseline nor learner.

    It is in tables and files and takes part in no test; the database does not hold it.
    """

    name: str
    curves: Mapping[int, ColdStartCurve]
    role: Literal["bound"] = "bound"


@dataclass(frozen=True)
class BoundShare:
    """Share of the way from a baseline to a bound that a method has gone at one point, with its 95% interval.

    `share` is (method - baseline) / (bound - baseline) and not a number where the bound is no better than the baseline.
    The interval is not a number where metrics are of rows.
    """

    method: str
    baseline: str
    bound: str
    shots: int
    metric: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedComparison:
    """Paired difference of two methods at one point over all seeds: `method` less `against`."""

    method: str
    against: str
    shots: int
    metric: str
    difference: float
    low: float
    high: float
    p: float
    n: int


@dataclass
class Comparison:
    """Curves of all methods on one data set and protocol.

    `newcomers` describes the entities of each seed's curves, where results by group are wanted. `split` is the rule
    that divides the entities. `failures` are of methods that are in no curve.
    """

    dataset: str
    scenario: str
    metrics: tuple[str, ...]
    shots: tuple[int, ...]
    methods: list[MethodCurves] = field(default_factory=list)
    bundle: Bundle | None = None
    run: str = ""
    adaptation_effects: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    bounds: list[BoundCurves] = field(default_factory=list)
    shares: list[BoundShare] = field(default_factory=list)
    newcomers: dict[int, Newcomers] = field(default_factory=dict)
    split: str | None = None
    failures: tuple[MethodFailure, ...] = ()

    @cached_property
    def tests(self) -> list[NewPairedTest]:
        """Paired tests of the methods, all of which are measured by then; see `paired_tests`."""
        return paired_tests(self)

    @property
    def warnings(self) -> list[str]:
        """Warnings of all methods."""
        return [warning for m in self.methods for warning in m.warnings]

    def evaluations(self) -> list[NewEvaluation]:
        """Evaluation of each method, seed, point and metric, and with seed None of the mean over seeds.

        A metric that is not a number has none.
        """
        return [row for m in self.methods for row in self._rows(m)]

    def _rows(self, method: MethodCurves) -> list[NewEvaluation]:
        return [
            NewEvaluation(
                dataset=self.dataset,
                scenario=self.scenario,
                method=method.name,
                role=method.role,
                seed=seed,
                shots=k,
                metric=metric,
                value=i.value,
                low=i.low,
                high=i.high,
                n=i.n,
                model_version=method.version(seed),
                **asdict(method.origin(seed)),
                split=self.split,
                seeds=len(method.curves),
            )
            for seed, k, metric, i in self.intervals(method)
        ]

    def intervals(
        self, method: MethodCurves | BoundCurves
    ) -> Iterator[tuple[int | None, int, str, ConfidenceInterval]]:
        """Yield seed, shots, metric and interval of each point, with seed None of the mean over seeds.

        Points that are not a number are left out.
        """
        for k in self.shots:
            for metric in self.metrics:
                values = {s: c.values[k][metric] for s, c in method.curves.items()}
                points: dict[int | None, ConfidenceInterval] = {
                    s: summarise_seeds(metric, [v]) for s, v in values.items()
                }
                points[None] = summarise_seeds(metric, values_of_seeds(list(method.curves.values()), k, metric))
                yield from ((seed, k, metric, i) for seed, i in points.items() if np.isfinite(i.value))

    def method_points(self, metric: str) -> list[MethodPoints]:
        """Metric of every method at every point."""
        return [self._points(m, metric) for m in self.methods]

    def bound_points(self, metric: str) -> list[MethodPoints]:
        """Metric of every bound at every point."""
        return [self._points(bound, metric) for bound in self.bounds]

    def _points(self, method: MethodCurves | BoundCurves, metric: str) -> MethodPoints:
        curves = list(method.curves.values())
        points = (summarise_seeds(metric, values_of_seeds(curves, k, metric)) for k in self.shots)
        return MethodPoints(method.name, method.role, tuple(points))

    def mean(self, method: MethodCurves | BoundCurves, shots: int, metric: str) -> float:
        """Mean over seeds at one point, NaN without entities."""
        return mean_over_seeds(metric, values_of_seeds(list(method.curves.values()), shots, metric))[0]

    def gains_of_adapting(self, metric: str) -> list[float] | None:
        """Return by how much adapting makes the mean of the first learner better at each point, above 0 whatever the
        metric; None where no learner was measured unadapted."""
        means = {m.name: m for m in self.methods}
        learner = next((m for m in self.methods if f"{m.name}-unadapted" in means), None)
        if learner is None:
            return None
        other, sign = means[f"{learner.name}-unadapted"], -1.0 if metric in LOWER_IS_BETTER else 1.0
        return [sign * (self.mean(learner, k, metric) - self.mean(other, k, metric)) for k in self.shots]

    @property
    def is_catalogue_shrinking(self) -> bool:
        """Return whether events known leave the catalogue that is ranked: columns are not of one task then."""
        return self.bundle is not None and self.bundle.schema.objective == "ranking"

    def best_baseline(self, shots: int, metric: str) -> MethodCurves | None:
        """Best baseline at one point; None without a baseline whose metric is a number."""
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        candidates = [m for m in self.methods if m.role == "baseline"]
        scores = [(sign * self.mean(m, shots, metric), m) for m in candidates]
        scores = [(v, m) for v, m in scores if np.isfinite(v)]
        return max(scores, key=lambda pair: pair[0])[1] if scores else None

    def against_best_baseline(self, metric: str) -> list[PairedComparison]:
        """Paired differences of the first learner and the best baseline of each point."""
        learners = [m for m in self.methods if m.role in ("flagship", "learner")]
        differences = []
        for k in self.shots if learners else ():
            other = self.best_baseline(k, metric)
            if other is None:
                continue
            differences.append(self.difference(learners[0], other, k, metric))
        return differences

    def against_all_methods(self, metric: str) -> list[PairedComparison]:
        """Paired differences of the first learner and every other method at each point, and of each other learner and
        the baseline that is best there."""
        learners = [m for m in self.methods if m.role in ("flagship", "learner")]
        others = [m for m in self.methods if learners and m is not learners[0]]
        best = [(k, baseline) for k in self.shots if (baseline := self.best_baseline(k, metric)) is not None]
        return [
            *(self.difference(learners[0], other, k, metric) for other in others for k in self.shots),
            *(self.difference(one, baseline, k, metric) for one in learners[1:] for k, baseline in best),
        ]

    def between_learners(self, metric: str) -> list[PairedComparison]:
        """Paired differences of each learner and every one before it in the list, at each point, for ablations.

        Empty for more than MOST_IN_PAIRS learners, whose pairs would take longer than the trainings of some.
        """
        learners = [m for m in self.methods if m.role != "baseline" and not m.name.endswith("-unadapted")]
        if len(learners) > MOST_IN_PAIRS:
            return []
        return [self.difference(b, a, k, metric) for a, b in combinations(learners, 2) for k in self.shots]

    def difference(self, ours: MethodCurves, other: MethodCurves, shots: int, metric: str) -> PairedComparison:
        """Paired difference of two methods at one point over all seeds; a bootstrap the first time that it is asked."""
        key = ours.name, other.name, shots, metric
        if key not in self._differences:
            self._differences[key] = self.paired_difference(ours, other, shots, metric)
        return self._differences[key]

    @cached_property
    def _differences(self) -> dict[tuple[str, str, int, str], PairedComparison]:
        return {}

    def paired_difference(self, ours: MethodCurves, other: MethodCurves, shots: int, metric: str) -> PairedComparison:
        """Paired difference of two methods, or of parts of their curves, by a bootstrap each time."""
        seeds = sorted(ours.curves)
        p = paired_difference_over_seeds(
            metric,
            values_of_seeds([ours.curves[s] for s in seeds], shots, metric),
            values_of_seeds([other.curves[s] for s in seeds], shots, metric),
        )
        return PairedComparison(ours.name, other.name, shots, metric, p.difference, p.low, p.high, p.p, p.n)


def values_of_seeds(curves: Sequence[ColdStartCurve], shots: int, metric: str) -> list[Values]:
    """Values of a method at one point: an array for each seed, or one of each newcomer's means over the seeds.

    The latter where all seeds tested the same newcomers (one split, several trainings): a newcomer is one observation,
    and counted once for each seed it would make intervals too narrow.
    """
    values = [c.values[shots][metric] for c in curves]
    arrays = [v for v in values if not isinstance(v, RowSample)]
    same = all(np.array_equal(c.entities, curves[0].entities) for c in curves)
    if len(values) < 2 or len(arrays) < len(values) or not same:
        return values
    return [np.mean(arrays, axis=0)]


JsonPart = Mapping[str, list[dict[str, Any]]]
"""JSON content of one comparison: lists by key."""


def as_json(results: Sequence[Comparison], command: str, created: str) -> dict[str, Any]:
    """Results as JSON content: evaluations, paired tests, methods and the effect of adapting."""
    return merge_json([json_part(result) for result in results], command, created)


def merge_json(parts: Sequence[JsonPart], command: str, created: str) -> dict[str, Any]:
    """JSON content of several comparisons: the lists of all, behind the command and the time.

    "shares" is there only where bounds were evaluated, "failed" where a method failed.
    """
    keys = ("rows", "paired", "beside", "among", "methods", "change", "shares", "failed")
    lists = {key: [row for part in parts for row in part[key]] for key in keys}
    for key in ("shares", "failed"):
        if not lists[key]:
            del lists[key]
    return {"command": command, "created": created, **lists}


def json_part(result: Comparison, *, with_dataset: bool = False) -> JsonPart:
    """JSON content of a comparison; `with_dataset` names the data set in every entry rather than in "rows" alone."""
    keep = ("dataset", "scenario", "method", "role", "seed", "shots", "metric", "value", "low", "high", "n")
    at = {"dataset": result.dataset, "scenario": result.scenario} if with_dataset else {"scenario": result.scenario}
    rows = [{k: v for k, v in asdict(r).items() if k in keep} for r in result.evaluations()]
    rows += [row for bound in result.bounds for row in _bound_rows(result, bound)]
    versus = [{**at, **asdict(v)} for metric in result.metrics for v in result.against_best_baseline(metric)]
    methods = [
        {
            **at,
            "method": m.name,
            "role": m.role,
            "note": m.note,
            **({} if m.cost is None else _rounded(asdict(m.cost))),
            "warnings": list(m.warnings),
        }
        for m in result.methods
    ]
    change = [{**at, "shots": k, "state": s, "scores": c} for k, (s, c) in result.adaptation_effects.items()]
    metrics = [
        m for m in result.metrics if m in (result.metrics[0], "mrr")
    ]  # a bootstrap of every method for each metric
    beside = [{**at, **asdict(v)} for m in metrics for v in result.against_all_methods(m)]
    among = [{**at, **asdict(v)} for v in result.between_learners(result.metrics[0])]
    shares = [{**at, **_without_nan(asdict(share))} for share in result.shares]
    return {
        "rows": rows,
        "paired": versus,
        "beside": beside,
        "among": among,
        "methods": methods,
        "change": change,
        "shares": shares,
        "failed": [{**at, **asdict(failure)} for failure in result.failures],
    }


def _bound_rows(result: Comparison, bound: BoundCurves) -> list[dict[str, Any]]:
    place = {"dataset": result.dataset, "scenario": result.scenario, "method": bound.name, "role": bound.role}
    return [
        place | {"seed": seed, "shots": k, "metric": metric, "value": i.value, "low": i.low, "high": i.high, "n": i.n}
        for seed, k, metric, i in result.intervals(bound)
    ]


def _rounded(columns: dict[str, Any]) -> dict[str, Any]:
    """Columns with their fractions to a tenth."""
    return {k: round(v, 1) if isinstance(v, float) else v for k, v in columns.items()}


def _without_nan(columns: dict[str, Any]) -> dict[str, Any]:
    """Columns with None in place of what is not a number, which JSON has no word for."""
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in columns.items()}
