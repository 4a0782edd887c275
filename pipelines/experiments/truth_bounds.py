"""Bounds of a comparison on simulated data: curves of the oracle and of the Bayes-optimal prediction, and the share of
the way from popularity to the latter that each method has gone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap

from pipelines.experiments.comparison import BoundCurves, BoundShare, Comparison, MethodCurves, values_of_seeds
from pipelines.experiments.comparison_run import seeds_for
from pipelines.experiments.evaluation_protocol import EvaluationProtocol
from pipelines.experiments.thread_count import default_threads, fixed_threads
from pipelines.experiments.training_inputs import training_inputs
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FloatArray
from recsys_meta.data import ground_truth_of
from recsys_meta.evaluation.cold_start import cold_start
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.evaluation.truth_predictors import TruthBound, truth_bounds
from recsys_meta.metrics.pooled_metrics import RowSample

BASELINE = "popularity"
"""Baseline from which shares are counted."""
DRAWS = 1000


def with_popularity(baselines: Sequence[str] | None) -> Sequence[str] | None:
    """Names of baselines (None: all), with popularity even if it was not asked for: shares are counted from it."""
    return baselines if baselines is None or BASELINE in baselines else [*baselines, BASELINE]


def require_bounds(data: Dataset, protocol: EvaluationProtocol) -> tuple[TruthBound, ...]:
    """Build the predictors that know the world of a data set.

    Raises ConfigError if it is not known, or not in this protocol.
    """
    if protocol.scenario != "new":
        raise ConfigError("the truth is known in the scenario new only")
    return truth_bounds(data, ground_truth_of(data), protocol.order)


def add_bounds(
    result: Comparison,
    data: Dataset,
    source: str,
    bounds: Sequence[TruthBound],
    protocol: EvaluationProtocol,
    seeds: Sequence[int],
    threads: int | None = None,
) -> None:
    """Evaluate the bounds on the episodes of a comparison, and add their curves and the shares of all methods to it."""
    curves: dict[str, dict[int, ColdStartCurve]] = {bound.name: {} for bound in bounds}
    for seed in seeds_for(data, protocol, seeds):
        inputs = training_inputs(data, source, scenario=protocol.scenario, split=protocol.split, seed=seed)
        for bound in bounds:
            with fixed_threads(threads or default_threads()):
                curves[bound.name][seed] = cold_start(
                    bound.predictor,
                    bound.params,
                    bound.data,
                    inputs.index,
                    protocol.sample(inputs.split.test, inputs.split_seed),
                    shots=protocol.points(data),
                    order=protocol.order,
                    seed=seed,
                    min_query=protocol.min_query,
                )
    result.bounds = [BoundCurves(name, by_seed) for name, by_seed in curves.items()]
    result.shares = bound_shares(result, result.bounds[-1], result.metrics[0])


def bound_shares(result: Comparison, bound: BoundCurves, metric: str) -> list[BoundShare]:
    """Shares of the way from popularity to a bound that all other methods have gone, at each point.

    None without popularity among the methods.
    """
    baseline = next((m for m in result.methods if m.name == BASELINE), None)
    if baseline is None:
        return []
    others = [m for m in result.methods if m is not baseline]
    return [_share(result, method, baseline, bound, k, metric) for method in others for k in result.shots]


def _share(
    result: Comparison, method: MethodCurves, baseline: MethodCurves, bound: BoundCurves, shots: int, metric: str
) -> BoundShare:
    ours, least, most = (result.mean(m, shots, metric) for m in (method, baseline, bound))
    value = (ours - least) / (most - least) if np.isfinite(most) and most != least else np.nan
    low, high = _interval(*(_values(m, shots, metric) for m in (method, baseline, bound)))
    return BoundShare(method.name, baseline.name, bound.name, shots, metric, value, low, high)


def _values(method: MethodCurves | BoundCurves, shots: int, metric: str) -> FloatArray:
    """Values of all entities of all seeds, see `values_of_seeds`; none where metrics are of rows."""
    points = values_of_seeds([method.curves[seed] for seed in sorted(method.curves)], shots, metric)
    return np.concatenate([np.empty(0) if isinstance(v, RowSample) else v for v in points])


def _interval(ours: FloatArray, least: FloatArray, most: FloatArray) -> tuple[float, float]:
    """95% bootstrap interval of the ratio of mean differences, over entities."""
    values = np.stack([ours - least, most - least])
    values = values[:, np.isfinite(values).all(0)]
    if values.shape[1] < 2 or values[1].mean() <= 0:
        return np.nan, np.nan
    result = bootstrap(
        tuple(values),
        lambda a, b, axis: a.mean(axis) / b.mean(axis),
        paired=True,
        vectorized=True,
        n_resamples=DRAWS,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
