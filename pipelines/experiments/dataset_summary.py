"""Summary of comparisons on several data sets: wins, ties and losses of the first learner, and ranks of all methods.

Each data set counts in its own criterion, the first metric of its objective.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
from scipy.stats import rankdata

from pipelines.experiments.comparison import Comparison, MethodPoints, PairedComparison
from pipelines.experiments.comparison_tests import verdict
from pipelines.experiments.evaluation_protocol import FLAGSHIPS
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.store.tracking.paired_tests import Verdict

PointVerdict = Literal["win", "tie", "loss", "undefined"]
PLURALS: dict[PointVerdict, str] = {"win": "wins", "tie": "ties", "loss": "losses", "undefined": "undefined"}
"""Verdicts, and the names of their numbers."""
_OUTCOMES: dict[Verdict, PointVerdict] = {"better": "win", "open": "tie", "worse": "loss"}


@dataclass(frozen=True)
class PointOutcome:
    """Outcome of the first learner against the best baseline at one point.

    A win if the paired 95% interval is above 0 in the good direction, a loss if it is below, else a tie; undefined
    where a prediction was not a number or nobody reaches the point. `relative` is the difference in the good direction
    as a share of the baseline's value (for RMSE, whose differences are of squared errors, of its square).
    """

    paired: PairedComparison
    verdict: PointVerdict
    relative: float


@dataclass(frozen=True)
class DatasetOutcome:
    """Curves of all methods on one data set and scenario in its criterion, and the outcome at each point.

    `source` is the data set as its user named it, `dataset` a label that no other data set has.
    """

    dataset: str
    scenario: str
    source: str
    metric: str
    shots: tuple[int, ...]
    methods: tuple[MethodPoints, ...]
    points: tuple[PointOutcome, ...]

    @property
    def learner(self) -> str | None:
        """Name of the first learner, None without one."""
        return next((m.name for m in self.methods if m.role != "baseline"), None)

    def shots_with(self, verdict: PointVerdict) -> list[int]:
        """Numbers of shots at which the outcome is this one."""
        return [p.paired.shots for p in self.points if p.verdict == verdict]

    @property
    def largest_loss(self) -> PointOutcome | None:
        """Loss of the largest relative size, None without a loss."""
        losses = [p for p in self.points if p.verdict == "loss"]
        return min(losses, key=lambda p: p.relative, default=None)


@dataclass(frozen=True)
class DatasetFailure:
    """Failure of a data set, named as its user did, and the reason."""

    dataset: str
    reason: str


@dataclass(frozen=True)
class MeanRank:
    """Mean rank of a method, 1 the best, over the points at which it was compared, and how many methods were there."""

    method: str
    mean_rank: float
    mean_methods: float
    points: int
    datasets: int


@dataclass
class DatasetSummary:
    """Outcomes of all data sets of one comparison, and failures of those that could not be compared."""

    outcomes: list[DatasetOutcome] = field(default_factory=list)
    failures: list[DatasetFailure] = field(default_factory=list)

    def count(self, verdict: PointVerdict) -> int:
        """Number of points of all data sets with a verdict."""
        return sum(len(o.shots_with(verdict)) for o in self.outcomes)

    @property
    def largest_loss(self) -> tuple[DatasetOutcome, PointOutcome] | None:
        """Loss of the largest relative size, since criteria differ in scale, and where it is; None without a loss."""
        losses = [(o, o.largest_loss) for o in self.outcomes]
        found = [(o, p) for o, p in losses if p is not None]
        return min(found, key=lambda pair: pair[1].relative, default=None)

    def mean_ranks(self) -> list[MeanRank]:
        """Mean rank of every method, best first; each point of each data set counts once.

        Equal values share the mean of their ranks, a value that is not a number ranks last, and a point that nobody
        reaches is left out. The flagships of all objectives are one method.
        """
        ranks: dict[str, list[tuple[float, int, str]]] = {}
        for outcome in self.outcomes:
            for name, rank, of in _ranks(outcome):
                ranks.setdefault(name, []).append((rank, of, outcome.dataset))
        means = [
            MeanRank(
                name,
                float(np.mean([rank for rank, _, _ in points])),
                float(np.mean([of for _, of, _ in points])),
                len(points),
                len({dataset for _, _, dataset in points}),
            )
            for name, points in ranks.items()
        ]
        return sorted(means, key=lambda m: m.mean_rank)

    def as_json(self) -> dict[str, Any]:
        """Summary as JSON content; null for what is not a number."""
        loss = self.largest_loss
        return {
            "outcomes": [_outcome_json(o) for o in self.outcomes],
            "total": {plural: self.count(v) for v, plural in PLURALS.items()},
            "mean_ranks": [asdict(m) for m in self.mean_ranks()],
            "largest_loss": None if loss is None else {**_place(loss[0]), **_point_json(loss[1])},
            "failed": [asdict(f) for f in self.failures],
        }


def outcome_of(result: Comparison, source: str) -> DatasetOutcome:
    """Outcome of a comparison in its first metric."""
    metric = result.metrics[0]
    methods = tuple(result.method_points(metric))
    values = {(m.name, k): i.value for m in methods for k, i in zip(result.shots, m.points, strict=True)}
    points = tuple(_point(v, values[v.against, v.shots]) for v in result.against_best_baseline(metric))
    return DatasetOutcome(result.dataset, result.scenario, source, metric, result.shots, methods, points)


def _point(paired: PairedComparison, baseline: float) -> PointOutcome:
    sign = -1.0 if paired.metric in LOWER_IS_BETTER else 1.0
    gain, scale = sign * paired.difference, baseline**2 if paired.metric == "rmse" else abs(baseline)
    if not math.isfinite(gain):
        return PointOutcome(paired, "undefined", math.nan)
    relative = gain / scale if scale else math.copysign(math.inf, gain) if gain else 0.0
    return PointOutcome(paired, _OUTCOMES[verdict(paired.metric, paired.difference, paired.low, paired.high)], relative)


def _ranks(outcome: DatasetOutcome) -> Iterator[tuple[str, float, int]]:
    """Name of a method, its rank, and the number of methods ranked, for each method and point that somebody reaches."""
    sign = -1.0 if outcome.metric in LOWER_IS_BETTER else 1.0
    values = np.array([[i.value for i in m.points] for m in outcome.methods])  # [methods, points]
    reached = np.isfinite(values).any(0) if len(values) else np.zeros(0, bool)
    ranks = rankdata(np.nan_to_num(-sign * values[:, reached], nan=np.inf), axis=0) if reached.any() else values[:, :0]
    for method, row in zip(outcome.methods, ranks, strict=True):
        yield from ((method_family(method.name), float(rank), len(outcome.methods)) for rank in row)


def method_family(name: str) -> str:
    """Name of a method over data sets of all objectives: "flagship" for the flagship of each."""
    for flagship in FLAGSHIPS:
        if name in (flagship, f"{flagship}-unadapted"):
            return FLAGSHIPS[0] + name.removeprefix(flagship)
    return name


def scenario_labels(scenarios: Sequence[str]) -> list[str]:
    """Parts of scenario names, which slashes divide, by which several differ; of one the first part."""
    for parts in zip_longest(*(s.split("/") for s in scenarios), fillvalue=""):
        if len(set(parts)) == len(scenarios):
            return list(parts)
    return list(scenarios)


def outcome_labels(outcomes: Sequence[DatasetOutcome]) -> list[str]:
    """Labels of outcomes: the data set, and its scenario where there are several of one data set."""
    scenarios: dict[str, list[str]] = {}
    for o in outcomes:
        scenarios.setdefault(o.dataset, []).append(o.scenario)
    labels = {
        (dataset, scenario): f"{dataset}, {label}" if len(names) > 1 else dataset
        for dataset, names in scenarios.items()
        for scenario, label in zip(names, scenario_labels(names), strict=True)
    }
    return [labels[o.dataset, o.scenario] for o in outcomes]


def _place(outcome: DatasetOutcome) -> dict[str, Any]:
    return {"dataset": outcome.dataset, "scenario": outcome.scenario}


def _outcome_json(outcome: DatasetOutcome) -> dict[str, Any]:
    loss = outcome.largest_loss
    return {
        **_place(outcome),
        "source": outcome.source,
        "metric": outcome.metric,
        "method": outcome.learner,
        **{plural: len(outcome.shots_with(v)) for v, plural in PLURALS.items()},
        "points": [_point_json(p) for p in outcome.points],
        "largest_loss": None if loss is None else _point_json(loss),
    }


def _point_json(point: PointOutcome) -> dict[str, Any]:
    content = {**asdict(point.paired), "verdict": point.verdict, "relative": point.relative}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in content.items()}
