"""Features of items as few columns: indicators of values and standardized numbers, in their leading subspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.types import FIRST
from recsys_meta.models.functional.linear_algebra import truncated_svd

LEAST_ITEMS = 2
"""Items that have a value, at least, for it to be a column: what one item has says nothing of others."""

MOST_DEVIATIONS = 5.0
"""Numbers beyond so many standard deviations count as so many."""


@dataclass(frozen=True)
class _FieldEncoding:
    """Encoding of a field: the weight of each value [V], 0 for none; or mean and deviation [2] of numbers."""

    weight: np.ndarray
    numeric: bool

    def encode(self, values: Tensor) -> sp.csr_matrix:
        """Encode ids [N, L] or numbers [N] as columns [N, V] or [N, 1]; indicators of a row have length 1."""
        if self.numeric:
            mean, deviation = self.weight
            number = (values.double().numpy() - mean) / deviation
            number = np.clip(np.nan_to_num(number), -MOST_DEVIATIONS, MOST_DEVIATIONS)
            return sp.csr_matrix(number[:, None])
        ids = values.numpy()
        ids = np.where(ids < len(self.weight), ids, 0)
        weight = self.weight[ids]
        row = np.repeat(np.arange(len(ids)), ids.shape[1])
        matrix = sp.csr_matrix((weight.ravel(), (row, ids.ravel())), shape=(len(ids), len(self.weight)))
        length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1))).ravel()
        return sp.diags(1 / np.where(length > 0, length, 1)).dot(matrix).tocsr()


@dataclass(frozen=True)
class ContentColumns:
    """Encoding of the features of items as K columns, fitted on a model's own items."""

    fields: Mapping[str, _FieldEncoding]
    basis: Tensor

    @classmethod
    def fit(cls, features: Mapping[str, Tensor], dims: int) -> ContentColumns:
        """Fit at most `dims` columns to the features of a catalogue: ids [C, L] or numbers [C] by name."""
        fields = {name: _fit_field(values[FIRST:]) for name, values in sorted(features.items())}
        fields = {name: field for name, field in fields.items() if field is not None}
        unreduced = cls({n: f for n, f in fields.items() if f is not None}, torch.zeros(0, 0))
        if not fields:
            return unreduced
        matrix = unreduced._matrix({name: values[FIRST:] for name, values in features.items()})
        width = matrix.shape[1]
        basis = torch.eye(width) if width <= dims else truncated_svd(matrix.astype(np.float32), dims, seed=0, sweeps=2)
        return cls(unreduced.fields, basis)

    @property
    def names(self) -> Sequence[str]:
        """Names of the fields that say something."""
        return list(self.fields)

    def encode(self, features: Mapping[str, Tensor], count: int) -> Tensor:
        """Encode the features of N items, [N, K] float32; `count` is N."""
        if not self.fields:
            return torch.zeros(count, 0)
        return torch.from_numpy((self._matrix(features) @ self.basis.numpy()).astype(np.float32))

    def reduced(self, reduction: Tensor | None) -> ContentColumns:
        """Encoding as the K columns that these L become by a matrix [L, K]; None changes nothing."""
        return self if reduction is None else ContentColumns(self.fields, self.basis @ reduction)

    def _matrix(self, features: Mapping[str, Tensor]) -> sp.csr_matrix:
        return sp.hstack([field.encode(features[name]) for name, field in self.fields.items()]).tocsr()


def _fit_field(values: Tensor) -> _FieldEncoding | None:
    """Fit a field to the values of M items; None where it does not tell them apart."""
    if values.is_floating_point():
        known = values[~values.isnan()].double()
        deviation = float(known.std(correction=0)) if len(known) else 0.0
        return _FieldEncoding(np.array([float(known.mean()), deviation]), True) if deviation > 0 else None
    ids = values.numpy()
    has = np.unique(np.stack([np.repeat(np.arange(len(ids)), ids.shape[1]), ids.ravel()]), axis=1)[1]
    count = np.bincount(has, minlength=FIRST).astype(np.float64)
    weight = np.where((count >= LEAST_ITEMS) & (count < len(ids)), np.log((1 + len(ids)) / (1 + count)), 0.0)
    weight[:FIRST] = 0
    return _FieldEncoding(weight, False) if weight.any() else None
