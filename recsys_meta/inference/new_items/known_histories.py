"""Histories of entities among a model's own items, and where their scores of these stand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from torch import Tensor

from recsys_meta.core.types import FIRST, FloatArray, IntArray
from recsys_meta.inference.requests.entity import EncodedEntity

KEPT = 10
"""Place of the known item that new ones are put beside."""


class KnownHistories(NamedTuple):
    """Rows of T entities among M known items. liked [T, M]: zeros and ones; unmet [T, M] bool: what lists may hold."""

    liked: sp.csr_matrix
    unmet: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, entities: Sequence[EncodedEntity], items: int, hidden: Collection[int] = ()) -> KnownHistories:
        """Read the histories of entities, given the number of known items and ids that no list holds."""
        ends = np.cumsum([0, *(len(entity.items) for entity in entities)])
        rows = _positions([item for entity in entities for item in entity.items])
        inside = (rows >= 0) & (rows < items)  # an id below is no item, and one above came after the training
        row = np.repeat(np.arange(len(entities)), np.diff(ends))
        shape = len(entities), items
        matrix = sp.csr_matrix((np.ones(inside.sum(), np.float32), (row[inside], rows[inside])), shape=shape)
        matrix.data[:] = 1
        unmet = np.ones(shape, bool)
        for i, entity in enumerate(entities):
            seen = _positions(entity.seen_items)
            unmet[i, seen[(seen >= 0) & (seen < items)]] = False
        if len(hidden):
            others = _positions(hidden)
            unmet[:, others[(others >= 0) & (others < items)]] = False
        return cls(matrix, unmet)


class KnownLevels(NamedTuple):
    """Scores of known items that lists may hold, of T entities: mean, deviation and tenth best, each [T, 1] float64."""

    mean: FloatArray
    deviation: FloatArray
    tenth: FloatArray

    @classmethod
    def of(cls, scores: Tensor, unmet: npt.NDArray[np.bool_]) -> KnownLevels:
        """Find the levels of scores [T, M]; of an entity that nothing is left for they are those of all."""
        values = scores.numpy()
        left = unmet | ~unmet.any(1, keepdims=True)
        count = left.sum(1, keepdims=True)
        mean = np.where(left, values, 0).sum(1, keepdims=True, dtype=np.float64) / count
        difference = np.where(left, values - mean, 0)
        deviation = np.sqrt(np.square(difference).sum(1, keepdims=True) / count)
        place = min(KEPT, values.shape[1])
        best = -np.partition(np.where(left, -values, np.inf), place - 1, axis=1)[:, :place]
        tenth = np.where(np.isfinite(best), best, np.inf).min(1, keepdims=True)
        return cls(mean, np.maximum(deviation, 1e-9), tenth)


def _positions(ids: Collection[int]) -> IntArray:
    return np.fromiter(ids, np.int64, len(ids)) - FIRST
