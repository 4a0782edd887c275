"""What may be concluded from measured values: means with intervals over entities, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys_meta.core.types import FloatArray
from recsys_meta.metrics.interval import ConfidenceInterval, PairedDifference
from recsys_meta.metrics.pooled_metrics import RowSample, paired_sample_difference, summarise_samples

Values = FloatArray | RowSample
"""What a method did at one point: one value an entity, or rows of entities."""


def summarise(metric: str, values: Values, seed: int = 0, draws: int = 1000) -> ConfidenceInterval:
    """Mean over entities with a 95% bootstrap interval over entities; NaN entries leave. RMSE is the root."""
    if isinstance(values, RowSample):
        return summarise_seeds(metric, [values], draws)
    kept = np.asarray(values, np.float64)
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return ConfidenceInterval(float("nan"), float("nan"), float("nan"), 0)
    finish = np.sqrt if metric == "rmse" else np.asarray
    low, high = np.quantile(finish(_bootstrap(kept, seed, draws)), [0.025, 0.975])
    return ConfidenceInterval(float(finish(kept.mean())), float(low), float(high), len(kept))


def summarise_seeds(metric: str, seeds: Sequence[Values], draws: int = 1000) -> ConfidenceInterval:
    """Mean over seeds of the mean over entities; the interval resamples entities (within each seed, unless rows are
    given: then an entity that several seeds have tested is drawn for all of them at once)."""
    if any(isinstance(v, RowSample) for v in seeds):
        return summarise_samples(metric, [v for v in seeds if isinstance(v, RowSample)], draws)
    kept = [v[~np.isnan(v)] for v in (np.asarray(s, np.float64) for s in seeds if not isinstance(s, RowSample))]
    kept = [v for v in kept if len(v)]
    if not kept:
        return ConfidenceInterval(float("nan"), float("nan"), float("nan"), 0)
    finish = np.sqrt if metric == "rmse" else np.asarray
    drawn = np.mean([finish(_bootstrap(v, i, draws)) for i, v in enumerate(kept)], axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return ConfidenceInterval(
        float(np.mean([finish(v.mean()) for v in kept])), float(low), float(high), sum(map(len, kept))
    )


def paired_difference_over_seeds(metric: str, ours: Sequence[Values], theirs: Sequence[Values]) -> PairedDifference:
    """Paired difference of two methods over seeds: entities of all seeds for plain values, see `samples` for rows."""
    if any(isinstance(v, RowSample) for v in (*ours, *theirs)):
        pairs = [
            (a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(a, RowSample) and isinstance(b, RowSample)
        ]
        return paired_sample_difference(metric, pairs)
    return paired_difference(
        np.concatenate([np.asarray(v) for v in ours]), np.concatenate([np.asarray(v) for v in theirs])
    )


def paired_difference(ours: FloatArray, theirs: FloatArray, seed: int = 0, draws: int = 2000) -> PairedDifference:
    """Paired bootstrap over entities; the p-value is that of the sign-flip permutation test."""
    gap = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    gap = gap[~np.isnan(gap)]
    if not len(gap):
        return PairedDifference(float("nan"), float("nan"), float("nan"), 1.0, 0)
    low, high = np.quantile(_bootstrap(gap, seed, draws), [0.025, 0.975])
    extreme = np.abs(_flipped(gap, seed + 1, draws)) >= abs(gap.sum()) - 1e-12
    return PairedDifference(
        float(gap.mean()), float(low), float(high), float((extreme.sum() + 1) / (draws + 1)), len(gap)
    )


def _flipped(gap: FloatArray, seed: int, draws: int) -> FloatArray:
    """Sums of the gaps under `draws` random signs each, in blocks so that memory stays small."""
    rng = np.random.default_rng(seed)
    n = len(gap)
    block = max(1, 4_000_000 // n)
    sums = [
        (rng.integers(0, 2, (min(block, draws - i), n), dtype=np.int8) * 2 - 1) @ gap for i in range(0, draws, block)
    ]
    return np.concatenate(sums)


def _bootstrap(values: FloatArray, seed: int, draws: int) -> FloatArray:
    """Means of `draws` resamples with replacement, in blocks so that memory stays small."""
    rng = np.random.default_rng(seed)
    n = len(values)
    block = max(1, 4_000_000 // n)
    means = [values[rng.integers(0, n, (min(block, draws - i), n))].mean(1) for i in range(0, draws, block)]
    return np.concatenate(means)
