"""Relevance of new items for entities: a weighted sum of standardized signals, in units of known items' relevance.

Similarity of content to what an entity liked is compared with that of known items, as if these were new: so a single
new item has a relevance too, and it does not depend on which others there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.inference.new_items.relevance_choices import (
    BY_EVENTS,
    POPULARITY,
    REGRESSION,
    SHARED,
    TASTE,
    RelevanceChoices,
)
from recsys_meta.models.functional.linear_algebra import batch_invariant_product
from recsys_meta.models.new_items.content_profiles import Rows

LEAST_DEVIATION = 1e-9


@dataclass(frozen=True)
class SignalInputs:
    """Inputs of the signals for R reference items, which are known ones as if they were new, and N new ones.

    profiles: rows [M, V] of known items by group; targets: rows [R + N, V] by group; vectors [R + N, K + 1]: content
    and popularity beyond it, for the regression; popularity [R + N]: expected log counts, standardized by those of the
    known items; taste [N, H]; shared [M, N]: similarity of the entities of known items and the first ones of new items,
    None without any; reference [R]: positions of the reference items among the known ones; bins [N]: of the numbers of
    first events.
    """

    profiles: Rows
    targets: Rows
    vectors: FloatArray
    popularity: FloatArray
    taste: FloatArray
    shared: sp.csr_matrix | None
    reference: IntArray
    bins: IntArray


@dataclass(frozen=True)
class EntityInputs:
    """Inputs of T entities: coordinates [T, K + 1 + H] of their scores in units of each one's deviation,
    histories [T, M] of known items, and unmet [T, M] bool: known items that they have not met."""

    coordinates: FloatArray
    histories: sp.csr_matrix
    unmet: npt.NDArray[np.bool_]


class ItemRelevance:
    """Relevance of N new items by inputs and choices. May be shared by threads."""

    def __init__(self, inputs: SignalInputs, choices: RelevanceChoices, names: Sequence[str] | None = None) -> None:
        """With `names` these signals are computed, else those that have weights."""
        self._inputs, self._choices = inputs, choices
        self._bins = sorted(set(inputs.bins.tolist()))
        names_in_use = {name for b in self._bins for name in choices.of(b).weights} if names is None else set(names)
        self._groups = [name for name in inputs.profiles if name in names_in_use]
        others = [name for name in (REGRESSION, POPULARITY, *BY_EVENTS) if name in names_in_use]
        self.names = [*self._groups, *(n for n in others if n != SHARED or inputs.shared is not None)]
        if self._groups:
            self._known = sp.hstack([inputs.profiles[g] for g in self._groups]).tocsr()
            self._targets = sp.block_diag([inputs.targets[g].T for g in self._groups]).tocsr()
        self._vectors, self._taste = (torch.from_numpy(_columns(m)) for m in (inputs.vectors, inputs.taste))

    def scores(self, entities: EntityInputs) -> FloatArray:
        """Relevance [T, N], of which known items, as if they were new, have mean 0 and deviation 1."""
        raw, count = self.raw_signals(entities), len(self._inputs.reference)
        unmet = entities.unmet[:, self._inputs.reference]
        z = self.standardize(raw, unmet)
        total = np.zeros(z.shape[1:], np.float32)
        result: FloatArray = total[:, count:]
        for b in self._bins:
            weights = np.array([self._choices.of(b).weights.get(name, 0.0) for name in self.names], np.float32)
            by_events = np.array([name in BY_EVENTS for name in self.names]) & (b > 0)
            known = _weighted_sum(np.where(by_events, 0, weights), z[:, :, :count])
            mean, deviation = _moments(known, unmet)
            scale = np.sqrt(np.square(deviation) + np.square(weights[by_events]).sum())
            at = np.flatnonzero(self._inputs.bins == b)
            own = _weighted_sum(weights, z)[:, count:]
            result[:, at] = (own[:, at] - mean) / np.maximum(scale, LEAST_DEVIATION)
        return result

    @property
    def reference(self) -> IntArray:
        """Positions of the reference items among the known ones, [R]."""
        return self._inputs.reference

    @property
    def content(self) -> bytes:
        """All that relevance depends on beside the model, as bytes."""
        inputs = self._inputs
        parts = [m for _, m in sorted(inputs.targets.items())] + ([] if inputs.shared is None else [inputs.shared])
        arrays = [a for m in parts for a in (m.data, m.indices, m.indptr)]
        return b"".join(np.ascontiguousarray(a).tobytes() for a in (*arrays, inputs.popularity, inputs.bins))

    def standardize(self, raw: FloatArray, unmet: npt.NDArray[np.bool_]) -> FloatArray:
        """Standardize signals [S, T, R + N]: those by first events by what was found in validation, the others for each
        entity by the reference items that it has not met [T, R]."""
        count, z = unmet.shape[1], np.empty_like(raw)
        bins = np.concatenate([np.zeros(count, np.int64), self._inputs.bins])
        for i, name in enumerate(self.names):
            if name == POPULARITY:  # in deviations of known items' already, whoever asks
                z[i] = raw[i]
                continue
            if name in BY_EVENTS:
                moments = [self._choices.of(b).moments.get(name, (0.0, 1.0)) for b in range(bins.max() + 1)]
                mean, deviation = np.array(moments, np.float32)[bins].T
            else:
                mean, deviation = _moments(raw[i, :, :count], unmet)
            z[i] = np.where(deviation > LEAST_DEVIATION, (raw[i] - mean) / np.maximum(deviation, LEAST_DEVIATION), 0)
        return z

    def raw_signals(self, entities: EntityInputs) -> FloatArray:
        """Signals [S, T, R + N] as they are, in the order of `names`."""
        inputs, tasks = self._inputs, len(entities.coordinates)
        count = len(inputs.reference) + len(inputs.bins)
        raw = np.zeros((len(self.names), tasks, count), np.float32)
        if self._groups:
            similar = (entities.histories @ self._known @ self._targets).toarray()
            raw[: len(self._groups)] = similar.reshape(tasks, -1, count).transpose(1, 0, 2)
        width = len(self._vectors)
        coordinates = torch.from_numpy(np.ascontiguousarray(entities.coordinates, np.float32))
        by_name = {name: raw[i] for i, name in enumerate(self.names)}
        if REGRESSION in by_name:
            by_name[REGRESSION][:] = _product(coordinates[:, :width], self._vectors)
        if POPULARITY in by_name:
            by_name[POPULARITY][:] = inputs.popularity
        if TASTE in by_name and width < coordinates.shape[1]:
            by_name[TASTE][:, len(inputs.reference) :] = _product(coordinates[:, width:], self._taste)
        if SHARED in by_name:
            length = np.sqrt(np.maximum(np.diff(entities.histories.indptr), 1))[:, None]
            by_name[SHARED][:, len(inputs.reference) :] = (entities.histories @ inputs.shared).toarray() / length
        return raw


def _weighted_sum(weights: FloatArray, signals: FloatArray) -> FloatArray:
    """Weighted sum [T, N] of signals [S, T, N], one after another: so no row depends on those beside it."""
    total: FloatArray = np.zeros(signals.shape[1:], np.float32)
    for weight, signal in zip(weights, signals, strict=True):
        if weight:
            total += weight * signal
    return total


def _columns(rows: FloatArray) -> FloatArray:
    return np.ascontiguousarray(rows.T, np.float32)


def _product(rows: Tensor, table: Tensor) -> FloatArray:
    """rows [T, F] @ table [F, N], the same to the last bit for each row whichever are beside it: the product of one
    column is another program of the library, so there are always two."""
    wide = table if table.shape[1] > 1 else table.expand(-1, 2)
    product: FloatArray = batch_invariant_product(rows.contiguous(), wide.contiguous()).numpy()
    return product[:, : table.shape[1]]


def _moments(values: FloatArray, among: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation [T, 1] of values [T, R] among some; of none 0."""
    count = np.maximum(among.sum(1, keepdims=True), 1)
    mean = np.where(among, values, 0).sum(1, keepdims=True, dtype=np.float64) / count
    square = np.square(np.where(among, values - mean, 0)).sum(1, keepdims=True) / count
    return mean.astype(np.float32), np.sqrt(square).astype(np.float32)
