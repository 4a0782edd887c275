"""Comparisons that may be looked at while they run: ratios over whole entities, and confidence sequences.

The view `split_results` holds the same formulas in SQL; a test compares the two.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from recsys_meta.core.arrays import FloatArray

EFFECT = 0.1
"""Typical difference of two hit rates that the mixture is made for; it is valid for every other one too."""

MIN_ENTITIES = 30
"""Entities of each side from which the normal approximation is trusted."""


class RatioSums(NamedTuple):
    """Sums over entities of two figures and of their products, from which the ratio of the two follows.

    Events of one entity are not independent, so entities are what is drawn.
    """

    entities: int
    top: float
    bottom: float
    top_top: float
    top_bottom: float
    bottom_bottom: float

    @property
    def ratio(self) -> float:
        """The first figure for one of the second, over all entities."""
        return self.top / self.bottom

    @property
    def variance(self) -> float:
        """The variance of the ratio over samples of entities; NaN for fewer than two entities."""
        if self.entities < 2:
            return math.nan
        squares = self.top_top - 2 * self.ratio * self.top_bottom + self.ratio**2 * self.bottom_bottom
        return max(0.0, squares) / self.bottom**2 * self.entities / (self.entities - 1)


def difference_of_rates(first: RatioSums, second: RatioSums) -> tuple[float, float]:
    """Difference of the rates of hits of two groups of entities, the first less the second, and its variance.

    A group's variance is at least that of independent events at the rate of both: a group without a hit is not sure of
    that rate.
    """
    rate = (first.top + second.top) / (first.bottom + second.bottom)
    variances = (max(one.variance, rate * (1 - rate) / one.bottom) for one in (first, second))
    return first.ratio - second.ratio, sum(variances)


def sums_of(top: FloatArray, bottom: FloatArray) -> RatioSums:
    """Sums of two figures of entities [n]."""
    values = top.sum(), bottom.sum(), (top * top).sum(), (top * bottom).sum(), (bottom * bottom).sum()
    return RatioSums(len(top), *(float(value) for value in values))


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
