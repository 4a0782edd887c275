"""Ranking of known items by histories, beside which new ones stand: a ridge regression, ItemKNN, or the sum of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from recsys_meta.core.types import FloatArray
from recsys_meta.models.new_items.item_task import UserSpace, standardize

PENALTIES, SHRINKS = (0.03, 0.3, 3.0), (10.0, 100.0)
"""Settings that are tried, of the ridge regression and of ItemKNN."""


class KnownSetting(NamedTuple):
    """Penalty of the ridge regression and shrinkage of ItemKNN; None leaves one out."""

    penalty: float | None
    shrink: float | None


@dataclass(frozen=True)
class KnownItemRanker:
    """Ranks the M items of histories X [U, M]."""

    history: sp.csr_matrix

    @cached_property
    def _space(self) -> UserSpace:
        return UserSpace.of(self.history)

    @cached_property
    def _shared(self) -> sp.csr_matrix:
        """Numbers of shared users [M, M] of two items, 0 of an item with itself."""
        shared = self.history.T @ self.history
        shared = sp.csr_matrix(shared - sp.diags(shared.diagonal()))
        shared.eliminate_zeros()
        return shared

    def scores(self, rows: sp.csr_matrix, setting: KnownSetting) -> FloatArray:
        """Scores [u, M] of all items for histories [u, M], those of two methods standardized and added."""
        parts = []
        if setting.penalty is not None:
            space = self._space
            kept = space.shrink(setting.penalty).astype(np.float32)
            parts.append(np.asarray((rows @ space.items) * kept @ space.items.T, np.float32))
        if setting.shrink is not None:
            parts.append(self._by_neighbours(rows, setting.shrink))
        if len(parts) == 1:
            return parts[0]
        result: FloatArray = np.sum([standardize(part) for part in parts], 0)
        return result

    def _by_neighbours(self, rows: sp.csr_matrix, shrink: float) -> FloatArray:
        count = np.bincount(self.history.indices, minlength=self.history.shape[1])
        weight = sp.diags((1 / np.sqrt(count + shrink)).astype(np.float32))
        return np.asarray((rows @ weight @ self._shared @ weight).toarray(), np.float32)

    def choose(self, quality: Callable[[KnownSetting], float]) -> KnownSetting:
        """Choose the setting of the best quality: the best of each method, or both together."""
        ridge = max((KnownSetting(penalty, None) for penalty in PENALTIES), key=quality)
        near = max((KnownSetting(None, shrink) for shrink in SHRINKS), key=quality)
        return max((near, ridge, KnownSetting(ridge.penalty, near.shrink)), key=quality)
