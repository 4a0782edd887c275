"""Thompson sampling: what is uncertain is tried as often as it may be the best (Thompson, Biometrika 1933).

Each score is taken as normal with the mean and standard deviation of the adapted posterior. The list is the order of a
draw, and the propensity of its first item is known exactly, so that what was explored can be judged afterwards by
inverse propensity weighting.
"""

from __future__ import annotations

import torch
from torch import Tensor

_REACH = 8.0  # standard deviations on each side that the integral covers
_POINTS = 2001


def thompson_draw(mean: Tensor, std: Tensor, seed: int) -> Tensor:
    """Draw scores [N] with means [N] and standard deviations [N]; the same for the same seed."""
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mean.double() + std.double() * noise


def propensity(first: int, mean: Tensor, std: Tensor) -> float:
    """Compute the probability that a draw is greatest at `first`.

    The integral over the draw of `first` of the probability that all others stay below it, on a grid of N times 2001
    values: exact to about 0.001, where many draws would be needed for that.
    """
    mean, std = mean.double(), std.double()
    others = torch.arange(len(mean)) != first
    step = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64)
    weight = torch.exp(-step.square() / 2)
    value = mean[first] + std[first] * step
    # Without a deviation the others are below or not; the least deviation makes a step of that.
    below = (value[:, None] - mean[others]) / std[others].clamp_min(1e-12)
    probability = torch.special.log_ndtr(below).sum(1).exp()
    return float((probability * weight).sum() / weight.sum())
