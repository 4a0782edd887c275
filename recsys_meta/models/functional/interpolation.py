"""Piecewise linear functions of a number: interpolation weights between knots, for features and for support sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import FloatArray

SIZE_KNOTS = (0, 1, 2, 3, 5, 8, 12, 20, 32, 50, 100, 400)
"""Support sizes, in rows, at which the learners of rankings and of clicks hold values of their own."""


def quantile_knots(values: FloatArray, count: int) -> Tensor:
    """Distinct quantiles of the finite values [N], at equal spaces of probability: [K] float32, K at most `count`.

    A single knot at 0 where no value is finite.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return torch.zeros(1)
    return torch.from_numpy(np.unique(np.quantile(finite, np.linspace(0, 1, count)).astype(np.float32)))


def linear_interpolation_weights(x: Tensor, knots: Tensor) -> Tensor:
    """Weights [T, K] that interpolate linearly at x [T] between increasing knots [K]; constant beyond the ends."""
    width = knots.diff()
    # The hat function of each knot: up over the interval before it, down over the one after it.
    end = torch.ones_like(x)[:, None]
    up = torch.cat([end, ((x[:, None] - knots[:-1]) / width).clamp(0, 1)], 1)
    down = torch.cat([((knots[1:] - x[:, None]) / width).clamp(0, 1), end], 1)
    return torch.minimum(up, down)


def support_size_weights(size: Tensor, knots: Sequence[float] | Tensor) -> Tensor:
    """Weights [T, K] that interpolate linearly in log(1 + n) between knots [K], for supports of n = size [T] rows.

    Knots are increasing support sizes; beyond the last one weights stay constant.
    """
    positions = torch.log1p(torch.as_tensor(knots, dtype=size.dtype, device=size.device))
    return linear_interpolation_weights(torch.log1p(size), positions)


def encode_numbers(value: Tensor, knots: Tensor) -> Tensor:
    """Inputs [N, K + 1] of a numeric feature [N]: interpolation weights between knots [K], and an indicator of NaN.

    A missing value has the indicator alone.
    """
    missing = torch.isnan(value)
    weights = linear_interpolation_weights(torch.where(missing, knots[0], value), knots)
    return torch.cat([weights.masked_fill(missing[:, None], 0.0), missing[:, None].to(weights.dtype)], 1)
