"""Pooled metrics of rows: log-loss, AUC and calibration error of clicks; hit rate, nDCG and MRR of choices.

Each metric is a function of sums over entities, so a bootstrap that draws whole entities (rows of one entity are not
independent) is one product of resampling counts with a table of sums. `scipy.stats.bootstrap` resamples rows, or calls
the statistic for every resample of entities, and has no such form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.sparse as sp

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.metrics.interval import ConfidenceInterval, PairedDifference
from recsys_meta.metrics.ranking_metrics import CHOICE, CLICK, require_metric

AUC_BINS = 2000
"""Quantile bins of the scores in the bootstrap of an AUC; the AUC itself is exact."""
ROW_METRICS = frozenset({*CLICK, *CHOICE})
CALIBRATION_BINS = 15
MOST_KEPT = 20_000_000
"""Counts of a bootstrap that are kept for the next metric, at most: drawing them takes longer than their product."""


@dataclass(frozen=True)
class RowSample:
    """Rows of a method at one point: entity [n] int64, value [n], and for clicks label [n].

    With labels the value is the logit, and NaN a prediction that failed: it makes every metric of the sample NaN.
    Without labels the value is that of a metric, and NaN a row that the metric leaves out. Every method has the same
    rows in the same order.
    """

    entity: IntArray
    value: FloatArray
    label: FloatArray | None = None

    def measured_rows(self) -> RowSample:
        """Rows that the metric is computed over: all with labels, else those with a value."""
        if self.label is not None:
            return self
        present = ~np.isnan(self.value)
        return RowSample(self.entity[present], self.value[present])

    @property
    def is_undefined(self) -> bool:
        """True if a prediction failed, so that no metric of the rows is a number."""
        return self.label is not None and bool(np.isnan(self.value).any())

    def __len__(self) -> int:
        """Number of rows that the metric is computed over."""
        return len(self.value) if self.label is not None else int((~np.isnan(self.value)).sum())


Finish = Callable[[FloatArray], FloatArray]
"""Function from sums [..., P] to values of a metric [...]."""


def compute_metric(metric: str, sample: RowSample) -> float:
    """Value of a metric over a sample's rows; NaN without rows or where a prediction failed.

    Raises ConfigError for a metric that is not one of rows, ValueError for one of clicks without labels.
    """
    _require_row_metric(metric)
    rows = sample.measured_rows()
    if not len(rows.value) or rows.is_undefined:
        return float("nan")
    if metric == "auc":
        return auc(rows.value, _labels(rows))
    table, finish = _sums_by_entity(metric, rows, np.unique(rows.entity))
    return float(finish(table.sum(0)))


def _require_row_metric(metric: str) -> None:
    require_metric(metric, ROW_METRICS)


def auc(logit: FloatArray, label: FloatArray) -> float:
    """Area under the ROC curve of logits [n] and labels [n], ties counted half; NaN with one class only."""
    order = np.argsort(logit, kind="stable")
    value, positive = logit[order], label[order] > 0.5
    starts = np.flatnonzero(np.concatenate([[True], value[1:] != value[:-1]]))
    positives = np.add.reduceat(positive.astype(np.float64), starts)
    negatives = np.add.reduceat((~positive).astype(np.float64), starts)
    total = positives.sum() * negatives.sum()
    return float((positives * (negatives.cumsum() - 0.5 * negatives)).sum() / total) if total else float("nan")


def reliability(sample: RowSample, bins: int = CALIBRATION_BINS) -> tuple[FloatArray, FloatArray, IntArray]:
    """Mean prediction, rate of positives and number of rows of quantile bins of the predictions, [bins] each or fewer.

    Rows without a prediction are left out. Raises ValueError without labels.
    """
    present = ~np.isnan(sample.value)
    probability, label = _sigmoid(sample.value[present]), _labels(sample)[present]
    bucket = _quantile_bins(probability, bins)
    count = np.bincount(bucket)
    some = count > 0
    mean = np.bincount(bucket, probability)[some] / count[some]
    return mean, np.bincount(bucket, label)[some] / count[some], count[some]


def summarise_samples(metric: str, seeds: Sequence[RowSample], draws: int = 1000) -> ConfidenceInterval:
    """Mean of a metric over seeds with its 95% bootstrap interval; an entity is drawn for all seeds at once.

    NaN without rows or where a prediction failed. Raises ConfigError for a metric that is not one of rows.
    """
    samples = [s for s in (seed.measured_rows() for seed in seeds) if len(s)]
    value, n = mean_of_samples(metric, samples)
    if not samples or any(s.is_undefined for s in samples):
        return ConfidenceInterval(float("nan"), float("nan"), float("nan"), n)
    entities = np.unique(np.concatenate([s.entity for s in samples]))
    counts = _resample_counts(len(entities), draws)
    replicates = np.nanmean([_bootstrap_replicates(metric, s, entities, counts) for s in samples], axis=0)
    low, high = np.nanquantile(replicates, [0.025, 0.975])
    return ConfidenceInterval(value, float(low), float(high), n)


def mean_of_samples(metric: str, seeds: Sequence[RowSample]) -> tuple[float, int]:
    """Mean of a metric over the seeds with rows, and the number of their entities; see `summarise_samples`."""
    _require_row_metric(metric)
    samples = [s for s in (seed.measured_rows() for seed in seeds) if len(s)]
    mean = float(np.mean([compute_metric(metric, s) for s in samples])) if samples else float("nan")
    return mean, sum(len(np.unique(s.entity)) for s in samples)


def paired_sample_difference(
    metric: str, pairs: Sequence[tuple[RowSample, RowSample]], draws: int = 2000
) -> PairedDifference:
    """Mean over seeds of the difference of two methods on the same rows; entities are drawn with replacement.

    The p-value is twice the share of draws on the rarer side of zero. NaN without rows or where a prediction failed.
    Raises ConfigError for a metric that is not one of rows, ValueError if the rows of a pair differ.
    """
    _require_row_metric(metric)
    for ours, theirs in pairs:
        if not np.array_equal(ours.entity, theirs.entity):
            raise ValueError("samples of different rows cannot be paired")
    samples = [(a.measured_rows(), b.measured_rows()) for a, b in pairs]
    samples = [(a, b) for a, b in samples if len(a) and len(a) == len(b)]
    n = sum(len(np.unique(a.entity)) for a, _ in samples)
    if not samples or any(a.is_undefined or b.is_undefined for a, b in samples):
        return PairedDifference(float("nan"), float("nan"), float("nan"), 1.0, n)
    entities = np.unique(np.concatenate([a.entity for a, _ in samples]))
    counts = _resample_counts(len(entities), draws)
    differences = [
        _bootstrap_replicates(metric, a, entities, counts) - _bootstrap_replicates(metric, b, entities, counts)
        for a, b in samples
    ]
    replicates = np.nanmean(differences, axis=0)
    difference = float(np.mean([compute_metric(metric, a) - compute_metric(metric, b) for a, b in samples]))
    low, high = np.nanquantile(replicates, [0.025, 0.975])
    tail = min(float((replicates <= 0).mean()), float((replicates >= 0).mean()))
    p = min(1.0, 2 * (tail * draws + 1) / (draws + 1))
    return PairedDifference(difference, float(low), float(high), p, n)


def entity_means(metric: str, sample: RowSample, entities: IntArray) -> FloatArray | None:
    """Mean of a metric over the rows of each entity, [E], NaN without rows; None for a metric that is no mean of rows.

    `entities` [E] are ascending. Raises ConfigError for a metric that is not one of rows.
    """
    _require_row_metric(metric)
    rows = sample.measured_rows()
    if metric in ("auc", "ece"):
        return None
    table, _ = _sums_by_entity(metric, rows, entities)
    count = np.bincount(np.searchsorted(entities, rows.entity), minlength=len(entities))
    divisor = np.minimum(count, 1) if metric.startswith("macro_") else count  # those sums are means already
    means: FloatArray = np.divide(table[:, 0], divisor, out=np.full(len(entities), np.nan), where=count > 0)
    return means


def _resample_counts(entities: int, draws: int) -> FloatArray:
    """Number of times each entity is drawn, [draws, entities]; the same ones for every method and metric."""
    return _kept_counts(entities, draws) if entities * draws <= MOST_KEPT else _draw_counts(entities, draws)


@lru_cache(maxsize=2)  # an interval and a test have other numbers of draws
def _kept_counts(entities: int, draws: int) -> FloatArray:
    return _draw_counts(entities, draws)


def _draw_counts(entities: int, draws: int) -> FloatArray:
    rng = np.random.default_rng(0)
    counts: FloatArray = rng.multinomial(entities, np.full(entities, 1 / entities), size=draws).astype(np.float64)
    return counts


def _bootstrap_replicates(metric: str, sample: RowSample, entities: IntArray, counts: FloatArray) -> FloatArray:
    """Values of a metric [draws] over resampled entities; NaN where a resample leaves it undefined."""
    table, finish = _sums_by_entity(metric, sample, entities)
    with np.errstate(invalid="ignore", divide="ignore"):
        return finish(counts @ table)


def _sums_by_entity(metric: str, sample: RowSample, entities: IntArray) -> tuple[FloatArray | sp.csr_matrix, Finish]:
    """Sums of each entity [E, P], and the function from sums to the value of the metric."""
    position, count = np.searchsorted(entities, sample.entity), len(entities)

    def total(weight: FloatArray | None = None) -> FloatArray:
        return np.bincount(position, weight, minlength=count).astype(np.float64)

    if metric == "auc":
        return _auc_sums(sample, position, count)
    if metric == "ece":
        return _calibration_sums(sample, position, count)
    if metric == "logloss":
        label = _labels(sample)
        loss = np.logaddexp(0, sample.value) - label * sample.value
        return np.stack([total(loss), total()], 1), _ratio
    if metric.startswith("macro_"):
        rows = total()
        mean = np.divide(total(sample.value), rows, out=np.zeros(count), where=rows > 0)
        return np.stack([mean, (rows > 0).astype(np.float64)], 1), _ratio
    return np.stack([total(sample.value), total()], 1), _ratio


def _ratio(sums: FloatArray) -> FloatArray:
    ratio: FloatArray = sums[..., 0] / sums[..., 1]
    return ratio


def _auc_sums(sample: RowSample, position: IntArray, count: int) -> tuple[sp.csr_matrix, Finish]:
    quantile = _quantile_bins(sample.value, AUC_BINS)
    width = int(quantile.max()) + 1
    # Sparse: an entity has rows in a few of the bins.
    column = np.where(_labels(sample) > 0.5, quantile, width + quantile)
    table = sp.csr_matrix((np.ones(len(column)), (position, column)), shape=(count, 2 * width))

    def finish(sums: FloatArray) -> FloatArray:
        positives, negatives = sums[..., :width], sums[..., width:]
        area = (positives * (negatives.cumsum(-1) - 0.5 * negatives)).sum(-1)
        result: FloatArray = area / (positives.sum(-1) * negatives.sum(-1))
        return result

    return table, finish


def _calibration_sums(sample: RowSample, position: IntArray, count: int) -> tuple[FloatArray, Finish]:
    probability = _sigmoid(sample.value)
    bucket = _quantile_bins(probability, CALIBRATION_BINS)
    width = int(bucket.max()) + 1
    residual, rows = np.zeros((count, width)), np.zeros((count, width))
    np.add.at(residual, (position, bucket), probability - _labels(sample))
    np.add.at(rows, (position, bucket), 1.0)

    def finish(sums: FloatArray) -> FloatArray:
        result: FloatArray = np.abs(sums[..., :width]).sum(-1) / sums[..., width:].sum(-1)
        return result

    return np.concatenate([residual, rows], 1), finish


def _quantile_bins(values: FloatArray, bins: int) -> IntArray:
    """Number of the quantile bin of each value, [n]; equal values share one."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    indices: IntArray = np.searchsorted(edges, values, side="right")
    return indices


def _sigmoid(logit: FloatArray) -> FloatArray:
    probability: FloatArray = 0.5 * (1 + np.tanh(0.5 * np.asarray(logit, np.float64)))
    return probability


def _labels(sample: RowSample) -> FloatArray:
    if sample.label is None:
        raise ValueError("a metric of clicks needs a sample with labels")
    return sample.label
