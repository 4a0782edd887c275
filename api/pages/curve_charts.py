"""Cold-start curves as charts."""

from __future__ import annotations

from statistics import fmean

from api.pages.charts import ChartSeries, PageChart
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.store.tracking.version_curve import MethodCurve, VersionCurve


def curve_chart(curve: VersionCurve, most: int = 12) -> PageChart:
    """Draw the version first and then the best of the others, `most` lines in all, over the events known."""
    shots = curve.shots
    return PageChart(
        title=f"Cold-start curve: {curve.metric}",
        x_label="events known",
        y_label=curve.metric,
        x=shots,
        series=[_series(method, shots) for method in best_methods(curve)[:most]],
        even=True,
    )


def best_methods(curve: VersionCurve) -> list[MethodCurve]:
    """Return the version's own curves first, then the others by their mean, the best first."""
    sign = 1 if curve.metric in LOWER_IS_BETTER else -1
    return sorted(curve.methods, key=lambda m: (not m.is_own, sign * _mean(m)))


def best_values(curve: VersionCurve) -> dict[int, float]:
    """Return the best value of any method at each support size."""
    best = min if curve.metric in LOWER_IS_BETTER else max
    values = {n: [v for m in curve.methods if (v := _value(m, n)) is not None] for n in curve.shots}
    return {n: best(v) for n, v in values.items() if v}


def _value(method: MethodCurve, shots: int) -> float | None:
    point = method.points.get(shots)
    return None if point is None else point.value


def _mean(method: MethodCurve) -> float:
    values = [point.value for point in method.points.values() if point.value is not None]
    return fmean(values) if values else float("-inf")


def _series(method: MethodCurve, shots: list[int]) -> ChartSeries:
    points = [method.points.get(n) for n in shots]
    low, high = ([None if p is None else getattr(p, end) for p in points] for end in ("low", "high"))
    has_interval = any(value is not None for value in low)
    return ChartSeries(
        label=method.method,
        values=[None if p is None else p.value for p in points],
        low=low if has_interval else (),
        high=high if has_interval else (),
        is_main=method.is_own,
    )
