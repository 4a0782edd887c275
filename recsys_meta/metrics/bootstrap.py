"""Bootstrap intervals and paired tests: means over entities with 95% intervals, and differences of two methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.stats import bootstrap

from recsys_meta.core.types import FloatArray
from recsys_meta.metrics.interval import ConfidenceInterval, PairedDifference
from recsys_meta.metrics.pooled_metrics import RowSample, mean_of_samples, paired_sample_difference, summarise_samples
from recsys_meta.metrics.ranking_metrics import require_metric

Values = FloatArray | RowSample
"""Values of a metric at one point: one for each entity [n], NaN where it has none, or a sample of rows."""

BLOCK = 4_000_000
"""Most resampled values held at once."""


def summarise(metric: str, values: Values, seed: int = 0, draws: int = 1000) -> ConfidenceInterval:
    """Mean over entities with its 95% percentile bootstrap interval over entities; entities with NaN are left out.

    The mean square that stands for "rmse" becomes its root. An infinite value (see `rating_metrics`) makes mean and
    interval NaN. Raises ConfigError for an unknown metric.
    """
    if isinstance(values, RowSample):
        return summarise_samples(metric, [values], draws)
    return _summarise([values], metric, [seed], draws)


def summarise_seeds(metric: str, seeds: Sequence[Values], draws: int = 1000) -> ConfidenceInterval:
    """Mean over seeds of the mean over entities, with its 95% bootstrap interval.

    Entities are resampled within each seed; in samples of rows an entity that several seeds have tested is drawn for
    all of them at once. Not a number where `summarise` gives none for a seed. Raises ConfigError for an unknown metric.
    """
    if any(isinstance(v, RowSample) for v in seeds):
        return summarise_samples(metric, _samples(seeds), draws)
    return _summarise(_arrays(seeds), metric, range(len(seeds)), draws)


def mean_over_seeds(metric: str, seeds: Sequence[Values]) -> tuple[float, int]:
    """Value and n of `summarise_seeds`, without its interval and so without a bootstrap."""
    if any(isinstance(v, RowSample) for v in seeds):
        return mean_of_samples(metric, _samples(seeds))
    return _mean([_observations(v) for v in _arrays(seeds)], metric)


def _summarise(seeds: Sequence[FloatArray], metric: str, states: Iterable[int], draws: int) -> ConfidenceInterval:
    """Interval over the entities of each seed, resampled by the states of their random generators."""
    observations = [_observations(v) for v in seeds]
    value, n = _mean(observations, metric)
    if not np.isfinite(value):
        return ConfidenceInterval(float("nan"), float("nan"), float("nan"), n)
    means = [_bootstrap_means(v, state, draws) for v, state in zip(observations, states, strict=True) if len(v)]
    low, high = np.quantile(np.mean([_finish(metric, m) for m in means], axis=0), [0.025, 0.975])
    return ConfidenceInterval(value, float(low), float(high), n)


def _mean(observations: Sequence[FloatArray], metric: str) -> tuple[float, int]:
    require_metric(metric)
    means = [float(_finish(metric, v.mean())) for v in observations if len(v)]
    mean = float(np.mean(means)) if means else float("nan")
    return mean if np.isfinite(mean) else float("nan"), sum(map(len, observations))


def _finish(metric: str, means: FloatArray) -> FloatArray:
    return np.sqrt(means) if metric == "rmse" else means


def _samples(seeds: Sequence[Values]) -> list[RowSample]:
    return [v for v in seeds if isinstance(v, RowSample)]


def _arrays(seeds: Sequence[Values]) -> list[FloatArray]:
    return [v for v in seeds if not isinstance(v, RowSample)]


def paired_difference_over_seeds(metric: str, ours: Sequence[Values], theirs: Sequence[Values]) -> PairedDifference:
    """Paired difference of two methods over the entities of all seeds; see `paired_sample_difference` for rows.

    Raises ConfigError for an unknown metric.
    """
    if any(isinstance(v, RowSample) for v in (*ours, *theirs)):
        pairs = [
            (a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(a, RowSample) and isinstance(b, RowSample)
        ]
        return paired_sample_difference(metric, pairs)
    require_metric(metric)
    return paired_difference(
        np.concatenate([np.asarray(v) for v in ours]), np.concatenate([np.asarray(v) for v in theirs])
    )


def paired_difference(ours: FloatArray, theirs: FloatArray, seed: int = 0, draws: int = 2000) -> PairedDifference:
    """Paired bootstrap of the mean difference over entities; the p-value is that of a two-sided sign-flip test.

    Entities with NaN in either are left out; an infinite value makes the difference NaN. The sign flips are our own:
    `scipy.stats.permutation_test` draws the same test twelve times slower over 6,000 entities.
    """
    values = [np.asarray(v, np.float64) for v in (ours, theirs)]
    present = ~(np.isnan(values[0]) | np.isnan(values[1]))
    first, second = (v[present] for v in values)
    if not len(first) or np.isinf(first).any() or np.isinf(second).any():
        return PairedDifference(float("nan"), float("nan"), float("nan"), 1.0, len(first))
    difference = first - second
    low, high = np.quantile(_bootstrap_means(difference, seed, draws), [0.025, 0.975])
    extreme = np.abs(_sign_flip_sums(difference, seed + 1, draws)) >= abs(difference.sum()) - 1e-12
    p = float((extreme.sum() + 1) / (draws + 1))
    return PairedDifference(float(difference.mean()), float(low), float(high), p, len(difference))


def _observations(values: FloatArray) -> FloatArray:
    """Values of the entities that have one, as float64."""
    observations = np.asarray(values, np.float64)
    return observations[~np.isnan(observations)]


def _sign_flip_sums(difference: FloatArray, seed: int, draws: int) -> FloatArray:
    """Sums [draws] of the differences [n] under random signs, in blocks so that memory stays small."""
    rng = np.random.default_rng(seed)
    n = len(difference)
    block = max(1, BLOCK // n)
    sums = [
        (rng.integers(0, 2, (min(block, draws - i), n), dtype=np.int8) * 2 - 1) @ difference
        for i in range(0, draws, block)
    ]
    return np.concatenate(sums)


def _bootstrap_means(values: FloatArray, seed: int, draws: int) -> FloatArray:
    """Means [draws] of resamples of the values [n] with replacement."""
    if len(values) == 1:  # scipy wants two
        return np.repeat(values, draws)
    result = bootstrap(
        (values,),
        np.mean,
        vectorized=True,
        n_resamples=draws,
        batch=max(1, BLOCK // len(values)),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    means: FloatArray = result.bootstrap_distribution
    return means
