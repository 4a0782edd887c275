"""Losses of smaller ensembles against the full one, and how large they may be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys_meta.core.types import FloatArray, IntArray

PRUNING_ERRORS, PRUNING_GUARD = 0.5, 2.0
"""Loss that removing members may cost, in standard errors: in the mean over numbers of shots, and at each."""


def mean_loss(losses: Sequence[FloatArray], entities: Sequence[IntArray]) -> tuple[float, float]:
    """Mean loss over entities, each the mean over its numbers of shots, and its standard error.

    `losses` has a paired loss for each of `entities`, both [V] at each number of shots.
    """
    _, position = np.unique(np.concatenate(entities), return_inverse=True)
    mean = np.bincount(position, np.concatenate(losses)) / np.bincount(position)
    return float(mean.mean()), float(mean.std(ddof=1) / len(mean) ** 0.5) if len(mean) > 1 else 0.0


def is_clear_loss(loss: FloatArray) -> bool:
    """True where the mean of a paired loss [V] is above PRUNING_GUARD standard errors."""
    return len(loss) > 1 and float(loss.mean()) > PRUNING_GUARD * float(loss.std(ddof=1) / len(loss) ** 0.5)
