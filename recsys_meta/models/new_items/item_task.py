"""A task of new items: what is known of users and known items, the content of all, and first interactions."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.models.functional.item_content import ItemContent
from recsys_meta.models.functional.linear_algebra import truncated_svd

DIMS = 128
"""Dimensions of the space of users' histories."""

MOST_HELD = 16
"""Kernels and the like that are held."""

Scores = Callable[[IntArray], FloatArray]
"""Scores [u, N] of the new items for some users [u]."""


@dataclass(frozen=True)
class UserSpace:
    """Leading space of histories X [U, M]: users [U, D] = X @ items, items [M, D] orthonormal, strength [D] the squared
    singular values."""

    users: FloatArray
    items: FloatArray
    strength: FloatArray

    @classmethod
    def of(cls, history: sp.csr_matrix, dims: int = DIMS) -> UserSpace:
        """Find the space of histories by a truncated singular value decomposition."""
        items = truncated_svd(history, min(dims, *history.shape), seed=0, sweeps=2).numpy()
        users = np.asarray(history @ items, np.float32)
        return cls(users, items, np.square(users).sum(0))

    def shrink(self, penalty: float) -> FloatArray:
        """Share [D] of each direction that a ridge regression on histories keeps, with a penalty in units of the mean
        strength."""
        kept: FloatArray = self.strength / (self.strength + penalty * self.strength.mean() + 1e-9)
        return kept


@dataclass(frozen=True)
class ItemTask:
    """history [U, M]: rows of known items; support [U, N]: first rows of the new ones; known [M] and new [N]: item ids
    in `content`. `memory` holds what does not depend on the support: tasks that differ in it share one."""

    history: sp.csr_matrix
    content: ItemContent
    known: IntArray
    new: IntArray
    support: sp.csr_matrix
    memory: dict[Hashable, Any] = field(default_factory=dict)

    def remember(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make` returns, once for each key; the last few are held."""
        if key not in self.memory:
            value = make()
            while len(self.memory) >= MOST_HELD:
                self.memory.pop(next(iter(self.memory)))
            self.memory[key] = value
        else:
            self.memory[key] = self.memory.pop(key)  # the one used last goes last
        return self.memory[key]

    @property
    def space(self) -> UserSpace:
        """The leading space of histories."""
        space: UserSpace = self.remember("space", lambda: UserSpace.of(self.history))
        return space

    @cached_property
    def shots(self) -> IntArray:
        """First rows of each new item, [N]."""
        return np.bincount(self.support.indices, minlength=len(self.new))

    def by_history(self, kernel: sp.csr_matrix) -> Scores:
        """Scores that add up a similarity [M, N] over the history of a user."""
        if kernel.nnz > 0.2 * np.prod(kernel.shape):  # a product with a sparse one would take longer
            dense = kernel.toarray().astype(np.float32)
            return lambda users: np.asarray(self.history[users] @ dense, np.float32)
        return lambda users: np.asarray((self.history[users] @ kernel).toarray(), np.float32)

    def by_profile(self, known: sp.csr_matrix, new: sp.csr_matrix) -> Scores:
        """Scores by the content of known [M, V] and new items [N, V]: that of a history, added up, times an item's."""
        of_new = new.T.tocsr()
        return lambda users: np.asarray((self.history[users] @ known @ of_new).toarray(), np.float32)

    def by_factors(self, users: FloatArray, items: FloatArray) -> Scores:
        """Scores that are products of vectors of users [U, D] and new items [N, D]."""
        return lambda chosen: np.asarray(users[chosen] @ items.T, np.float32)

    def by_item(self, value: FloatArray) -> Scores:
        """Scores [N] that are the same for all users."""
        return lambda users: np.broadcast_to(np.asarray(value, np.float32), (len(users), len(value)))


def standardize(scores: FloatArray) -> FloatArray:
    """Standardize the scores [u, N] of each user; constant ones become 0."""
    centred = scores - scores.mean(1, keepdims=True)
    deviation = centred.std(1, keepdims=True)
    result: FloatArray = centred / np.where(deviation > 1e-9, deviation, 1)
    return result
