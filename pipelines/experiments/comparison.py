"""A comparison: curves of many methods on the same episodes, as rows for SQL and JSON, with its paired tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from recsys_meta.evaluation.cold_start import ColdStartCurve
from recsys_meta.metrics.bootstrap import paired_difference_over_seeds, summarise_seeds
from recsys_meta.metrics.interval import ConfidenceInterval
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.models.bundle import Bundle
from recsys_meta.store.tracking.evaluations import NewEvaluation, Role


@dataclass(frozen=True)
class MethodCurves:
    """One row of the table: a method with a curve for each seed; where bundles made the curves, their versions."""

    name: str
    role: Role
    curves: Mapping[int, ColdStartCurve]
    note: str = ""
    seconds: float = 0.0
    versions: Mapping[int, str] = field(default_factory=dict)

    def version(self, seed: int | None) -> str | None:
        """The bundle that a seed's points are of; their mean over several seeds is of none."""
        seeds = list(self.curves) if seed is None else [seed]
        return self.versions.get(seeds[0]) if len(seeds) == 1 else None


@dataclass(frozen=True)
class PairedComparison:
    """The flagship (or the only learner) less the best baseline at one point, over all seeds."""

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
    """All curves of one data set and protocol."""

    dataset: str
    scenario: str
    metrics: tuple[str, ...]
    shots: tuple[int, ...]
    methods: list[MethodCurves] = field(default_factory=list)
    bundle: Bundle | None = None
    run: str = ""
    change: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    def rows(self) -> list[NewEvaluation]:
        """A row for each method, seed, point and metric, and one with seed None for the mean over seeds."""
        return [row for m in self.methods for row in self._rows(m)]

    def _rows(self, method: MethodCurves) -> list[NewEvaluation]:
        made = []
        for k in self.shots:
            for metric in self.metrics:
                values = {s: c.values[k][metric] for s, c in method.curves.items()}
                points: dict[int | None, ConfidenceInterval] = {
                    s: summarise_seeds(metric, [v]) for s, v in values.items()
                }
                points[None] = summarise_seeds(metric, list(values.values()))
                made += [
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
                    )
                    for seed, i in points.items()
                    if i.n
                ]
        return made

    def mean(self, method: MethodCurves, shots: int, metric: str) -> float:
        """Mean over seeds at one point, NaN without newcomers."""
        return summarise_seeds(metric, [c.values[shots][metric] for c in method.curves.values()], draws=1).value

    def best_baseline(self, shots: int, metric: str) -> MethodCurves | None:
        """The baseline that is best at this very point: the hardest one to beat."""
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        candidates = [m for m in self.methods if m.role == "baseline"]
        scored = [(sign * self.mean(m, shots, metric), m) for m in candidates]
        scored = [(v, m) for v, m in scored if np.isfinite(v)]
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    def versus(self, metric: str) -> list[PairedComparison]:
        """Paired differences of the first learner and the best baseline at each point."""
        learners = [m for m in self.methods if m.role in ("flagship", "learner")]
        made = []
        for k in self.shots if learners else ():
            other = self.best_baseline(k, metric)
            if other is None:
                continue
            made.append(self._difference(learners[0], other, k, metric))
        return made

    def beside(self, metric: str) -> list[PairedComparison]:
        """Paired differences of the first learner and every other method at each point."""
        learners = [m for m in self.methods if m.role in ("flagship", "learner")]
        others = [m for m in self.methods if learners and m is not learners[0]]
        return [self._difference(learners[0], other, k, metric) for other in others for k in self.shots]

    def among(self, metric: str) -> list[PairedComparison]:
        """Paired differences of each learner and every one named before it, at each point: what a part is worth."""
        learners = [m for m in self.methods if m.role != "baseline" and not m.name.endswith("-unadapted")]
        return [self._difference(b, a, k, metric) for a, b in combinations(learners, 2) for k in self.shots]

    def _difference(self, ours: MethodCurves, other: MethodCurves, shots: int, metric: str) -> PairedComparison:
        seeds = sorted(ours.curves)
        p = paired_difference_over_seeds(
            metric,
            [ours.curves[s].values[shots][metric] for s in seeds],
            [other.curves[s].values[shots][metric] for s in seeds],
        )
        return PairedComparison(ours.name, other.name, shots, metric, p.difference, p.low, p.high, p.p, p.n)


def as_json(results: Sequence[Comparison], command: str, created: str) -> dict[str, Any]:
    """The machine-readable form of the contract, with the paired tests beside the rows."""
    parts = [_as_json(result) for result in results]
    joined = {key: [row for part in parts for row in part[key]] for key in parts[0]} if parts else {}
    return {"command": command, "created": created, **joined}


def _as_json(result: Comparison) -> dict[str, list[dict[str, Any]]]:
    keep = ("dataset", "scenario", "method", "role", "seed", "shots", "metric", "value", "low", "high", "n")
    rows = [{k: v for k, v in asdict(r).items() if k in keep} for r in result.rows()]
    versus = [{"scenario": result.scenario, **asdict(v)} for metric in result.metrics for v in result.versus(metric)]
    methods = [
        {
            "scenario": result.scenario,
            "method": m.name,
            "role": m.role,
            "train_seconds": round(m.seconds, 1),
            "note": m.note,
        }
        for m in result.methods
    ]
    change = [{"scenario": result.scenario, "shots": k, "state": s, "scores": c} for k, (s, c) in result.change.items()]
    told = [m for m in result.metrics if m in (result.metrics[0], "mrr")]  # each costs a bootstrap of every method
    beside = [{"scenario": result.scenario, **asdict(v)} for m in told for v in result.beside(m)]
    among = [{"scenario": result.scenario, **asdict(v)} for v in result.among(result.metrics[0])]
    return {"rows": rows, "paired": versus, "beside": beside, "among": among, "methods": methods, "change": change}
