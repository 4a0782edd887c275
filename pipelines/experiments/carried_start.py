"""Start of a training from a model: how much of its parameters is kept, the rest being fresh ones."""

from __future__ import annotations

import math
from collections.abc import Callable

from recsys_meta.core.types import Params
from recsys_meta.training.trainer import Validate

KEPT_SHARES = (1.0, 0.75, 0.5)
"""Shares of the carried parameters that are tried (shrink and perturb, Ash and Adams 2020)."""


def choose_start(
    fresh: Params, carried: Params, validate: Validate, notify: Callable[[str], None] = lambda _: None
) -> Params:
    """Choose what a training starts from, by meta-validation before its first step: all that was carried, or a part of
    it and the rest of the fresh parameters. What is no real number stays as it was carried.

    Parameters that have settled on yesterday's data may leave a training nowhere to go; how far depends on the data.
    """
    starts = {share: mix_parameters(fresh, carried, share) for share in KEPT_SHARES}
    values = {share: validate(params) for share, params in starts.items()}
    best = max(KEPT_SHARES, key=lambda share: -math.inf if math.isnan(values[share]) else values[share])
    if best < 1:
        notify(f"starts from {best:.0%} of what was carried: {values[best]:.4f} where all of it has {values[1.0]:.4f}")
    return starts[best]


def mix_parameters(fresh: Params, carried: Params, share: float) -> Params:
    """Mix a share of the carried parameters with fresh ones of the same names and shapes."""
    return {
        key: fresh[key].lerp(value, share) if share < 1 and value.is_floating_point() else value
        for key, value in carried.items()
    }
