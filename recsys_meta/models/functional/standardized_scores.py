"""Weighted sum of the standardized scores of several predictors, with few passes over the catalogue.

`functional.score_forms` and, for mixtures of evidence and popularity, `mix_with_popularity` define what is computed. A
mixture is standardized twice there, once as evidence and once as a whole; here the second time follows from the moments
of the first, and all predictors go through each operation together. For tensors in the memory of the processor that
are not differentiated: through NumPy, whose operations cost a third of torch's where there is one entity. Every sum is
over one row, so that the scores of an entity do not depend on the entities beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, FloatArray, Params
from recsys_meta.models.functional.score_forms import SHARPNESS

FLAT = 1e-6
"""Deviation, in units of mean plus deviation, up to which scores count as constant."""
MOST_NUMBERS = 1 << 24
"""Numbers of all predictors' scores that are held at a time: bounds the memory."""


def popularity_table(popularity: Sequence[Tensor | None]) -> Params:
    """Tables of `sum_of_forms` for M predictors: level [M, C], the popularity that each mixes its evidence with less
    its mean over the catalogue, and moments [M, 2], that mean and its variance; 0 for a predictor without one, and no
    columns where none has one."""
    catalogue = max((len(p) for p in popularity if p is not None), default=0)
    level = torch.stack([torch.zeros(catalogue) if p is None else p.cpu() for p in popularity]).double()
    count = max(catalogue - FIRST, 1)
    mean = level[:, FIRST:].sum(1) / count
    level = level - mean[:, None]
    variance = level[:, FIRST:].square().sum(1) / count
    return {"level": level.float(), "moments": torch.stack([mean, variance], 1).float()}


def sum_of_forms(
    evidence: Sequence[Tensor],
    weight: FloatArray,
    gain: FloatArray,
    level: FloatArray,
    moments: FloatArray,
    plain: FloatArray,
    heavy: FloatArray,
) -> Tensor:
    """Sum over M predictors of plain * z + heavy * top_heavy(z), [T, C], where z are their standardized scores: those
    of gain * evidence [T, C] + weight * popularity.

    Where a gain is not a number the evidence is standardized before, and constant evidence leaves popularity alone.
    weight, gain, plain and heavy are [M, T] float32; level [M, C] and moments [M, 2] as of `popularity_table`.
    """
    tasks, catalogue = evidence[0].shape
    step = max(1, MOST_NUMBERS // (len(evidence) * catalogue))
    total = np.empty((tasks, catalogue), np.float32)
    for start in range(0, tasks, step):
        part = slice(start, start + step)
        values = _side_by_side([scores.numpy()[part] for scores in evidence])
        _standardize(values, weight.T[part], gain.T[part], level, moments)
        total[part] = weigh_forms(values, plain.T[part], heavy.T[part])
    return torch.from_numpy(total)


def _side_by_side(evidence: Sequence[FloatArray]) -> FloatArray:
    """Copy the evidence [T, C] of M predictors into [T, M, C]."""
    values = np.empty((len(evidence[0]), len(evidence), evidence[0].shape[1]), np.float32)
    for m, scores in enumerate(evidence):
        values[:, m] = scores
    return values


def _standardize(
    values: FloatArray, weight: FloatArray, gain: FloatArray, level: FloatArray, moments: FloatArray
) -> None:
    """Standardize mixtures in place, their evidence [T, M, C]; weight and gain [T, M]."""
    catalog = values[:, :, FIRST:]
    count = np.float32(max(catalog.shape[2], 1))
    # Products, not sums: the library adds up sixteen numbers at a time.
    mean = np.vecdot(catalog, np.ones(catalog.shape[2], np.float32)) / count
    values -= mean[:, :, None]
    variance = np.vecdot(catalog, catalog) / count
    shared = np.vecdot(catalog, level[:, FIRST:]) / count if level.size else np.zeros_like(mean)
    slope, share = mixture_scales(mean, variance, shared, weight, gain, moments, float(count))
    values *= slope[:, :, None]
    # One after another: the product of all at once would take as much memory again.
    for m in np.flatnonzero(share.any(0)):
        values[:, m] += share[:, m, None] * level[m]


def mixture_scales(
    mean: FloatArray,
    variance: FloatArray,
    shared: FloatArray,
    weight: FloatArray,
    gain: FloatArray,
    moments: FloatArray,
    count: float,
) -> tuple[FloatArray, FloatArray]:
    """Scales [T, M] with which standardized scores are slope * (evidence - mean) + share * level.

    mean, variance and shared [T, M] are those of the evidence over `count` items, shared its covariance with the level;
    weight and gain are [T, M], and moments [M, 2] as of `popularity_table`.
    """
    inverse = _inverse_unless_flat(np.sqrt(variance), mean, FLAT * count**0.5)
    is_evidence = np.isnan(gain)
    scale = np.where(is_evidence, inverse, gain)
    mixed = np.where(is_evidence & (inverse == 0), np.float32(1), weight)
    whole = scale * (scale * variance + 2 * mixed * shared) + mixed * mixed * moments[:, 1]
    final = _inverse_unless_flat(np.sqrt(np.maximum(whole, 0)), scale * mean + mixed * moments[:, 0], FLAT)
    return scale * final, mixed * final


def weigh_forms(values: FloatArray, plain: FloatArray, heavy: FloatArray) -> FloatArray:
    """Sum over M of plain * z + heavy * top_heavy(z), [T, C], of standardized scores z [T, M, C], which are lost;
    plain and heavy [T, M]. A product for each entity: that of all would depend on how many there are."""
    total = np.matmul((plain + heavy / 2)[:, None], values)
    np.square(values, out=values)
    values += np.float32(SHARPNESS)
    np.sqrt(values, out=values)
    total += np.matmul((heavy / 2)[:, None], values)
    summed: FloatArray = total[:, 0]
    return summed


def _inverse_unless_flat(deviation: FloatArray, mean: FloatArray, flat: float) -> FloatArray:
    """1 / deviation, and 0 for scores that are constant."""
    varies = deviation > np.float32(flat) * (np.abs(mean) + deviation)
    inverse: FloatArray = varies / np.where(varies, deviation, np.float32(1))
    return inverse
