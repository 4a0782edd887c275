"""Content of items as sparse matrices, one a feature, and the similarity of items by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from recsys_meta.core.dataset import Dataset, FeatureColumn
from recsys_meta.core.types import FIRST, FloatArray, IntArray

LINK_SHARE = 0.5
"""Share of a feature's values that are names of items, from which on the feature links items with one another."""

LINKED_SHARE = 0.1
"""Share of the items that such values name, at least."""

BINS = 10
"""Bins of equal content that a number is told by: each is in two of them."""


@dataclass(frozen=True)
class ItemContent:
    """Content of C items: fields [C, V] by name, zeros and ones or shares; weight of a value by how rare it is.

    `known` are the items by which rarity is measured.
    """

    fields: Mapping[str, sp.csr_matrix]
    known: IntArray

    @classmethod
    def of(cls, data: Dataset, known: IntArray) -> ItemContent:
        """Read the features of a data set's items; a feature without any value is left out."""
        fields = {name: _field_matrix(data, name, column, known) for name, column in sorted(data.items.items())}
        return cls({name: matrix for name, matrix in fields.items() if matrix.nnz}, known)

    @property
    def names(self) -> Sequence[str]:
        """Names of the features."""
        return list(self.fields)

    def rows(self, names: Sequence[str], least: int = 1, rarity: float = 1.0) -> sp.csr_matrix:
        """Content of some features [C, V], values weighted by their inverse document frequency to the power `rarity`;
        those of fewer than `least` items are left out."""
        return sp.hstack([self._weighted(self.fields[name], least, rarity) for name in names]).tocsr()

    def _weighted(self, matrix: sp.csr_matrix, least: int, rarity: float) -> sp.csr_matrix:
        everywhere = np.asarray((matrix > 0).sum(0)).ravel()
        count = np.asarray((matrix[self.known] > 0).sum(0)).ravel()
        idf = np.log((1 + len(self.known)) / (1 + count)) ** rarity
        return matrix.dot(sp.diags(np.where(everywhere >= least, idf, 0).astype(np.float32))).tocsr()


def unit_rows(matrix: sp.csr_matrix, power: float = 1.0, added: float = 0.0) -> sp.csr_matrix:
    """Divide rows by their length to a power; empty ones stay. `added` to the squared length keeps rows of few values
    from counting as much as those of many."""
    length = np.sqrt(squared_lengths(matrix) + added)
    return sp.diags((np.where(length > 0, length, 1) ** -power).astype(np.float32)).dot(matrix).tocsr()


def squared_lengths(matrix: sp.csr_matrix) -> FloatArray:
    """Squared length of each row."""
    squares: FloatArray = np.asarray(matrix.multiply(matrix).sum(1)).ravel()
    return squares


def mean_square(matrix: sp.csr_matrix) -> float:
    """Mean squared length of rows; 0 without any."""
    return float(squared_lengths(matrix).mean()) if matrix.shape[0] else 0.0


def _field_matrix(data: Dataset, name: str, column: FeatureColumn, known: IntArray) -> sp.csr_matrix:
    if column.indptr is None:
        return _number_bins(np.asarray(column.values, np.float64), known)
    values, indptr = np.asarray(column.values), np.asarray(column.indptr)
    row = np.repeat(np.arange(len(column)), np.diff(indptr))
    keep = values >= FIRST
    shape = (len(column), column.size)
    matrix = sp.csr_matrix((np.ones(keep.sum(), np.float32), (row[keep], values[keep])), shape=shape)
    position = data.vocab.ids("item", data.vocab.values[f"item.{name}"])
    return _links(matrix, position) if is_link(position >= FIRST, len(known)) else matrix


def is_link(names_item: npt.NDArray[np.bool_], items: int) -> bool:
    """Say whether a feature links items: its values name items, most of them, and a good part of the items. Years are
    no links where items have numbers for names."""
    return bool(len(names_item)) and names_item.mean() > LINK_SHARE and names_item.sum() > LINKED_SHARE * items


def _links(matrix: sp.csr_matrix, position: IntArray) -> sp.csr_matrix:
    """Links [C, C] of items whose values name items, either way, and each with itself, so that items are alike both
    where one links the other and where they share links."""
    items = matrix.shape[0]
    pairs = matrix.tocoo()
    target = np.where(pairs.col >= FIRST, np.concatenate([np.zeros(FIRST, np.int64), position])[pairs.col], 0)
    keep = target >= FIRST
    row, column = pairs.row[keep], target[keep]
    linked = np.union1d(row, column)
    both = np.concatenate([row, column, linked]), np.concatenate([column, row, linked])
    links = sp.csr_matrix((np.ones(len(both[0]), np.float32), both), shape=(items, items))
    links.data[:] = 1
    return links


def _number_bins(values: FloatArray, known: IntArray) -> sp.csr_matrix:
    """Shares [C, BINS] of numbers in the two nearest of some quantiles of the known items."""
    return bin_shares(values, number_levels(values[known][np.isfinite(values[known])]))


def number_levels(finite: FloatArray) -> FloatArray:
    """Find the different ones of some quantiles of numbers, which bins of equal content stand at."""
    levels: FloatArray = np.unique(np.quantile(finite, np.linspace(0, 1, BINS))) if len(finite) else np.zeros(0)
    return levels


def bin_shares(values: FloatArray, levels: FloatArray) -> sp.csr_matrix:
    """Shares [N, BINS] of numbers [N], each in the two nearest of the levels; none where there are fewer than two."""
    if len(levels) < 2:
        return sp.csr_matrix((len(values), BINS), dtype=np.float32)
    row = np.flatnonzero(np.isfinite(values))
    place = np.interp(values[row], levels, np.arange(len(levels)))
    low = np.minimum(place.astype(np.int64), len(levels) - 2)
    share = np.stack([low + 1 - place, place - low]).astype(np.float32)
    cells = np.tile(row, 2), np.concatenate([low, low + 1])
    return sp.csr_matrix((share.ravel(), cells), shape=(len(values), BINS))


def content_kernel(
    rows: sp.csr_matrix, new: IntArray, known: IntArray, most: int, length: float = 1.0, smooth: float = 0.0
) -> sp.csr_matrix:
    """Similarity [M, N] of known to new items, the `most` largest of each new item: cosines of their content, in which
    the length of a new item counts with the power `length`, and squared lengths are more by `smooth` mean ones."""
    added = smooth * mean_square(rows[known])
    of_known, of_new, parts = unit_rows(rows[known], 1.0, added).T.tocsr(), unit_rows(rows[new], length, added), []
    step = max(1, 20_000_000 // max(len(known), 1))
    for start in range(0, len(new), step):
        parts.append(_largest(of_new[start : start + step].dot(of_known).tocsr(), most))
    return sp.vstack(parts).T.tocsr()


def _largest(matrix: sp.csr_matrix, most: int) -> sp.csr_matrix:
    """Keep the `most` largest entries of each row."""
    count = np.diff(matrix.indptr)
    if count.max(initial=0) <= most:
        return matrix
    row = np.repeat(np.arange(len(count)), count)
    order = np.lexsort((-matrix.data, row))
    rank = np.arange(len(order)) - matrix.indptr[row[order]]
    keep = order[rank < most]
    return sp.csr_matrix((matrix.data[keep], (row[keep], matrix.indices[keep])), shape=matrix.shape)
