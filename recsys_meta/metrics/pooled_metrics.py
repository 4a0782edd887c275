"""Rows measured one by one, and their figures: log-loss, AUC and calibration error of clicks, hit rates of choices.

A figure is a function of sums over entities, so a bootstrap that draws whole entities (rows of one entity are not
independent) is one product of random weights with a table of sums, whatever the figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.metrics.interval import ConfidenceInterval, PairedDifference

AUC_BINS = 2000
"""Quantiles of the scores at which the bootstrap of an AUC counts; the AUC itself is exact."""
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class RowSample:
    """Rows of a method at one point: entity [n], value [n] (the logit, where there is a label) and label [n].

    Rows that are not asked about are NaN; the same rows stand in the same order for every method.
    """

    entity: IntArray
    value: FloatArray
    label: FloatArray | None = None

    def kept(self) -> RowSample:
        """Without the rows that are not asked about."""
        keep = ~np.isnan(self.value)
        return RowSample(self.entity[keep], self.value[keep], None if self.label is None else self.label[keep])

    def __len__(self) -> int:
        return int((~np.isnan(self.value)).sum())


Finish = Callable[[FloatArray], FloatArray]
"""From sums [..., P] to figures [...]."""


def compute_metric(metric: str, sample: RowSample) -> float:
    """The figure of a sample, NaN without rows."""
    kept = sample.kept()
    if not len(kept.value):
        return float("nan")
    if metric == "auc":
        return auc(kept.value, _labels(kept))
    table, finish = _sums(metric, kept, kept.entity, np.unique(kept.entity), None)
    return float(finish(table.sum(0)))


def auc(logit: FloatArray, label: FloatArray) -> float:
    """Area under the ROC curve, ties counted half; NaN with one class only."""
    order = np.argsort(logit, kind="stable")
    value, positive = logit[order], label[order] > 0.5
    begins = np.flatnonzero(np.concatenate([[True], value[1:] != value[:-1]]))
    up = np.add.reduceat(positive.astype(np.float64), begins)
    down = np.add.reduceat((~positive).astype(np.float64), begins)
    total = up.sum() * down.sum()
    return float((up * (down.cumsum() - 0.5 * down)).sum() / total) if total else float("nan")


def reliability(sample: RowSample, bins: int = CALIBRATION_BINS) -> tuple[FloatArray, FloatArray, IntArray]:
    """Mean prediction, rate of positives and rows of equally filled bins of predictions, [bins] each or fewer."""
    kept = sample.kept()
    chance, label = _chance(kept.value), _labels(kept)
    place = _bins(chance, bins)
    count = np.bincount(place)
    some = count > 0
    mean = np.bincount(place, chance)[some] / count[some]
    return mean, np.bincount(place, label)[some] / count[some], count[some]


def summarise_samples(metric: str, seeds: Sequence[RowSample], draws: int = 1000) -> ConfidenceInterval:
    """Mean over seeds of the figure, and its 95% interval over entities drawn with replacement, each for all seeds."""
    kept = [s for s in (seed.kept() for seed in seeds) if len(s.value)]
    if not kept:
        return ConfidenceInterval(float("nan"), float("nan"), float("nan"), 0)
    entities = np.unique(np.concatenate([s.entity for s in kept]))
    weight = _weights(len(entities), draws)
    value = float(np.mean([compute_metric(metric, s) for s in kept]))
    drawn = np.nanmean([_drawn(metric, s, entities, weight) for s in kept], axis=0)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return ConfidenceInterval(value, float(low), float(high), sum(len(np.unique(s.entity)) for s in kept))


def paired_sample_difference(
    metric: str, pairs: Sequence[tuple[RowSample, RowSample]], draws: int = 2000
) -> PairedDifference:
    """Mean over seeds of the difference of two figures on the same rows; entities are drawn with replacement.

    The p-value is twice the share of draws on the rarer side of zero. Raises ValueError for rows that differ.
    """
    for ours, theirs in pairs:
        if not np.array_equal(ours.entity, theirs.entity):
            raise ValueError("samples of different rows cannot be paired")
    kept = [(a.kept(), b.kept()) for a, b in pairs]
    kept = [(a, b) for a, b in kept if len(a.value) and len(a.value) == len(b.value)]
    if not kept:
        return PairedDifference(float("nan"), float("nan"), float("nan"), 1.0, 0)
    entities = np.unique(np.concatenate([a.entity for a, _ in kept]))
    weight = _weights(len(entities), draws)
    gaps = [_drawn(metric, a, entities, weight) - _drawn(metric, b, entities, weight) for a, b in kept]
    drawn = np.nanmean(gaps, axis=0)
    difference = float(np.mean([compute_metric(metric, a) - compute_metric(metric, b) for a, b in kept]))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    side = min(float((drawn <= 0).mean()), float((drawn >= 0).mean()))
    p = min(1.0, 2 * (side * draws + 1) / (draws + 1))
    return PairedDifference(difference, float(low), float(high), p, sum(len(np.unique(a.entity)) for a, _ in kept))


def _weights(entities: int, draws: int) -> FloatArray:
    """How often each entity is drawn, [draws, entities]."""
    rng = np.random.default_rng(0)
    made: FloatArray = rng.multinomial(entities, np.full(entities, 1 / entities), size=draws).astype(np.float64)
    return made


def _drawn(metric: str, sample: RowSample, entities: IntArray, weight: FloatArray) -> FloatArray:
    table, finish = _sums(metric, sample, sample.entity, entities, AUC_BINS)
    with np.errstate(invalid="ignore", divide="ignore"):
        return finish(weight @ table)


def _sums(
    metric: str, sample: RowSample, owner: IntArray, entities: IntArray, bins: int | None
) -> tuple[FloatArray, Finish]:
    """Sums of each entity [E, P], and how to finish them."""
    place, count = np.searchsorted(entities, owner), len(entities)

    def total(weight: FloatArray | None = None) -> FloatArray:
        return np.bincount(place, weight, minlength=count).astype(np.float64)

    if metric == "auc":
        return _auc_sums(sample, place, count, bins or AUC_BINS)
    if metric == "ece":
        return _calibration_sums(sample, place, count)
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
    made: FloatArray = sums[..., 0] / sums[..., 1]
    return made


def _auc_sums(sample: RowSample, place: IntArray, count: int, bins: int) -> tuple[FloatArray, Finish]:
    quantile = _bins(sample.value, bins)
    width = int(quantile.max()) + 1
    positive = _labels(sample) > 0.5
    table = np.zeros((2, count, width))
    for side, mask in enumerate((positive, ~positive)):
        np.add.at(table[side], (place[mask], quantile[mask]), 1.0)

    def finish(sums: FloatArray) -> FloatArray:
        up, down = sums[..., :width], sums[..., width:]
        area = (up * (down.cumsum(-1) - 0.5 * down)).sum(-1)
        made: FloatArray = area / (up.sum(-1) * down.sum(-1))
        return made

    return np.concatenate([table[0], table[1]], 1), finish


def _calibration_sums(sample: RowSample, place: IntArray, count: int) -> tuple[FloatArray, Finish]:
    chance = _chance(sample.value)
    bucket = _bins(chance, CALIBRATION_BINS)
    width = int(bucket.max()) + 1
    gap, rows = np.zeros((count, width)), np.zeros((count, width))
    np.add.at(gap, (place, bucket), chance - _labels(sample))
    np.add.at(rows, (place, bucket), 1.0)

    def finish(sums: FloatArray) -> FloatArray:
        made: FloatArray = np.abs(sums[..., :width]).sum(-1) / sums[..., width:].sum(-1)
        return made

    return np.concatenate([gap, rows], 1), finish


def _bins(values: FloatArray, bins: int) -> IntArray:
    """Equally filled bins; equal values share one."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    found: IntArray = np.searchsorted(edges, values, side="right")
    return found


def _chance(logit: FloatArray) -> FloatArray:
    made: FloatArray = 0.5 * (1 + np.tanh(0.5 * np.asarray(logit, np.float64)))
    return made


def _labels(sample: RowSample) -> FloatArray:
    if sample.label is None:
        raise ValueError("this figure needs labels")
    return sample.label
