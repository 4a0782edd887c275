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
    mean = _entity_means(np.concatenate(losses), np.concatenate(entities))
    return float(mean.mean()), float(mean.std(ddof=1) / len(mean) ** 0.5) if len(mean) > 1 else 0.0


def is_clear_loss(loss: FloatArray, entity: IntArray) -> bool:
    """True where the mean of a paired loss [V], by the entity [V] of each, is above PRUNING_GUARD standard errors."""
    mean = _entity_means(loss, entity)
    return len(mean) > 1 and float(mean.mean()) > PRUNING_GUARD * float(mean.std(ddof=1) / len(mean) ** 0.5)


def _entity_means(loss: FloatArray, entity: IntArray) -> FloatArray:
    """Mean loss of each entity: its episodes are not independent."""
    _, position = np.unique(entity, return_inverse=True)
    means: FloatArray = np.bincount(position, loss) / np.bincount(position)
    return means
