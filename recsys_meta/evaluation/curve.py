"""Cold-start curve as data: the values of a method at each number of shots, with intervals and paired differences."""

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
    """Values of a method at each number of shots.

    values[shots][metric] holds one value for each entity [n], NaN where the entity has too few rows; or, where metrics
    are of rows (clicks, choices), a `RowSample`. All curves over the same entities have them, and their rows, in the
    same order, so that they can be paired.
    """

    method: str
    entities: IntArray
    values: Mapping[int, Mapping[str, Values]]

    @classmethod
    def joined(cls, parts: Sequence[ColdStartCurve]) -> ColdStartCurve:
        """Join the curves of one method over parts of its entities, in their order. Raises ValueError without any."""
        if not parts:
            raise ValueError("a curve needs a part")
        first = parts[0]
        values = {k: {m: _joined([p.values[k][m] for p in parts]) for m in point} for k, point in first.values.items()}
        return cls(first.method, np.concatenate([p.entities for p in parts]), values)

    def at(self, shots: int, metric: str) -> Values:
        """Values of a metric at one point. Raises NotFoundError for a point or a metric that the curve lacks."""
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
        """Paired difference, self less other, at one point. Raises ValueError for curves over other entities."""
        if not np.array_equal(self.entities, other.entities):
            raise ValueError("curves over different entities cannot be paired")
        return paired_difference_over_seeds(metric, [self.at(shots, metric)], [other.at(shots, metric)])

    def mean(self, metric: str) -> float:
        """Mean of a metric over the points that some entity reaches: the criterion of choices on meta-validation.

        NaN without such a point, or where the metric of one is undefined.
        """
        points = [self.at(k, metric) for k in self.values]
        means = [_mean_value(metric, values) for values in points if _has_values(values)]
        mean = float(np.mean(means)) if means else float("nan")
        return mean if np.isfinite(mean) else float("nan")


def _joined(parts: Sequence[Values]) -> Values:
    """Values of a point of all parts, one after the other."""
    samples = [part for part in parts if isinstance(part, RowSample)]
    if not samples:
        return np.concatenate([part for part in parts if not isinstance(part, RowSample)])
    labels = [sample.label for sample in samples if sample.label is not None]
    entity, value = (np.concatenate([getattr(s, name) for s in samples]) for name in ("entity", "value"))
    return RowSample(entity, value, np.concatenate(labels) if labels else None)


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))


def _mean_value(metric: str, values: Values) -> float:
    """Metric of a point (for RMSE the mean square); NaN where no entity reaches it or a prediction failed."""
    if isinstance(values, RowSample):
        return compute_metric(metric, values)
    mean = float(np.nanmean(values)) if _has_values(values) else float("nan")
    return mean if np.isfinite(mean) else float("nan")


def _has_values(values: Values) -> bool:
    return len(values) > 0 if isinstance(values, RowSample) else not np.isnan(values).all()
