"""Exposure: how often items of a popularity are in short lists, so that new items come to be in them as often.

Predictions of scores vary less than scores do: by themselves they hardly reach a list. They are stretched until new
items are listed as often as the model's own items of the popularity that is expected of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LIST_SIZE = 20
"""Length of the lists."""

GRID = 64
"""Values of log popularity at which the rate of exposure is held."""

LEAST_STRETCH, MOST_STRETCH = 0.5, 4.0

NODES = np.array([-1.4, -0.7, 0.0, 0.7, 1.4])
"""Quantiles of a normal distribution, about the middles of five equal parts."""

EVENT_BINS = (1, 3, 7, 20)
"""Numbers of first events from which on new items are stretched by a factor of their own."""


@dataclass(frozen=True)
class ExposureRate:
    """last [P]: the score of the last place of each probe's list; level [G]: values of log popularity, ascending, and
    rate [G]: the share of probes whose list has an item of that popularity."""

    last: Tensor
    level: np.ndarray
    rate: np.ndarray

    def expected(self, popularity: Tensor, deviation: Tensor) -> Tensor:
        """Expected rate [N] of items whose log popularity is normal with mean and deviation [N]."""
        values = popularity.double().numpy()[:, None] + deviation.double().numpy()[:, None] * NODES
        return torch.from_numpy(np.interp(values, self.level, self.rate).mean(1))

    def stretch(self, predictions: Tensor, rate: Tensor) -> float:
        """Factor of predictions [P, N] with which the items are listed as often as their rates [N] say."""
        ratio = (self.last[:, None] / predictions)[(predictions > 0) & (self.last > 0)[:, None]]
        wanted = round(float(rate.sum()) * len(self.last))
        if not wanted or not len(ratio):
            return 1.0
        return float(ratio.kthvalue(min(wanted, len(ratio))).values.clamp(LEAST_STRETCH, MOST_STRETCH))


def fit_exposure(scores: Tensor, popularity: Tensor) -> ExposureRate:
    """Fit the rate to scores [P, M] of probes and log popularity [M]: a mean over items of about that popularity."""
    size = min(LIST_SIZE, max(1, scores.shape[1] // 10))
    last = scores.topk(size, 1).values[:, -1]
    listed = (scores >= last[:, None]).double().mean(0).numpy()
    p = popularity.numpy()
    level = np.linspace(p.min(), p.max(), GRID) if p.max() > p.min() else np.array([p.min(), p.min() + 1])
    width = max(float(p.std()) / 5, 1e-3)
    near = np.exp(-(((level[:, None] - p) / width) ** 2) / 2) + 1e-12
    return ExposureRate(last.float(), level, near @ listed / near.sum(1))
