"""The cold-start curve as data, and choices made by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys_meta.core.errors import NotFoundError
from recsys_meta.core.types import IntArray
from recsys_meta.metrics.bootstrap import Values, paired_difference_over_seeds, summarise
from recsys_meta.metrics.interval import ConfidenceInterval, PairedDifference
from recsys_meta.metrics.pooled_metrics import RowSample, compute_metric


@dataclass(frozen=True)
class ColdStartCurve:
    """What a method did at each number of shots: values[shots][metric] is one value for each newcomer [n], NaN where
    it left; or, where rows are measured (clicks, choices), a `Sample` of rows.

    All curves over the same entities have the newcomers, and their rows, in the same order, so they can be paired.
    """

    method: str
    entities: IntArray
    values: Mapping[int, Mapping[str, Values]]

    def at(self, shots: int, metric: str) -> Values:
        """The values of a metric at one point. Raises NotFoundError for a point or a metric that the curve lacks."""
        if shots not in self.values:
            raise NotFoundError(f"the curve of '{self.method}' has no point {shots}; there are {_listed(self.values)}")
        point = self.values[shots]
        if metric not in point:
            raise NotFoundError(f"the curve of '{self.method}' has no metric '{metric}'; there are {_listed(point)}")
        return point[metric]

    def interval(self, shots: int, metric: str, seed: int = 0) -> ConfidenceInterval:
        """Mean and 95% bootstrap interval at one point."""
        return summarise(metric, self.at(shots, metric), seed)

    def against(self, other: ColdStartCurve, shots: int, metric: str) -> PairedDifference:
        """Paired difference, self less other, at one point."""
        if not np.array_equal(self.entities, other.entities):
            raise ValueError("curves over different entities cannot be paired")
        return paired_difference_over_seeds(metric, [self.at(shots, metric)], [other.at(shots, metric)])

    def mean(self, metric: str) -> float:
        """Mean over the points of the curve: the figure that choices on meta-validation are made by."""
        means = [mean_value(metric, self.at(k, metric)) for k in self.values]
        finite = [m for m in means if np.isfinite(m)]
        return float(np.mean(finite)) if finite else float("nan")


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))


def mean_value(metric: str, values: Values) -> float:
    """The figure of a point, NaN where nobody reached it (for RMSE the mean square)."""
    if isinstance(values, RowSample):
        return compute_metric(metric, values)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def best_setting(curves: Sequence[ColdStartCurve], metric: str, sign: float = 1.0) -> dict[int, int]:
    """For each number of shots, which of the curves (of one method's settings, on meta-validation) is best."""
    return {k: int(np.argmax([_worth(metric, c.at(k, metric), sign) for c in curves])) for k in curves[0].values}


def _worth(metric: str, values: Values, sign: float) -> float:
    mean = mean_value(metric, values)
    return sign * mean if np.isfinite(mean) else -np.inf
