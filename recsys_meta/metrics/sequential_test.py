"""Comparisons that may be looked at while they run: ratios over whole entities, and confidence sequences.

The view `split_results` holds the same formulas in SQL; a test compares the two.
"""

from __future__ import annotations

import math

import numpy as np

from recsys_meta.core.types import FloatArray

EFFECT = 0.1
"""Typical difference of two hit rates that the mixture is made for; it is valid for every other one too."""

MIN_ENTITIES = 30
"""Entities of each side from which the normal approximation is trusted."""


def ratio_of_sums(top: FloatArray, bottom: FloatArray) -> tuple[float, float]:
    """Ratio of the sums of two figures of entities [n], and its variance: events of one entity are not independent, so
    entities are what is drawn. The variance of fewer than two entities is NaN."""
    ratio, count = float(top.sum() / bottom.sum()), len(top)
    if count < 2:
        return ratio, math.nan
    squares = float(np.square(top - ratio * bottom).sum())
    return ratio, squares / float(bottom.sum()) ** 2 * count / (count - 1)


def sequence_margin(variance: float, comparisons: int = 1, alpha: float = 0.05) -> float:
    """Half the width of a confidence sequence around an estimate with a variance.

    It holds at all times at once with probability 1 - alpha, approximately for large samples (Robbins 1970, the normal
    mixture; Waudby-Smith et al. 2021), so that it may be looked at as often as one likes. `comparisons` share alpha.
    """
    prior = EFFECT**2
    log_odds = 2 * math.log(comparisons / alpha) + math.log((variance + prior) / variance)
    return math.sqrt(variance * (variance + prior) / prior * log_odds)


def sequential_p(difference: float, variance: float, comparisons: int = 1) -> float:
    """P-value of a difference that is valid whenever one stops: the mixture sequential probability ratio test (Robbins
    1970; Johari et al. 2022, "Always Valid Inference"). Its interval is that of `sequence_margin`."""
    prior = EFFECT**2
    log_ratio = 0.5 * math.log((variance + prior) / variance)
    log_ratio -= prior * difference**2 / (2 * variance * (variance + prior))
    return min(1.0, comparisons * math.exp(log_ratio))
