"""Content of a catalogue in the form in which histories are compared with new items: sparse rows, one group a feature.

It is what `ItemContent` and `profile_scores` are to a data set, fitted to the items of a model alone: new ones are
encoded when they come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from recsys_meta.core.types import FIRST, FloatArray, IntArray
from recsys_meta.models.functional.item_content import bin_shares, is_link, mean_square, number_levels, unit_rows
from recsys_meta.models.new_items.content_form import ContentForm

ALL_FEATURES = "all features"

Rows = Mapping[str, sp.csr_matrix]
"""Rows of items by the name of a feature, or of a group of features."""


@dataclass(frozen=True)
class ContentValues:
    """Values of M known items, as zeros and ones or shares. known: rows [M, V] by feature; levels: quantiles of
    numbers; links: the column of each padded id of a feature that links items, which is the position of the known item
    that it names, or one behind those of all known items; and linking: the known items [V, M] that have each padded id
    of such a feature."""

    known: Rows
    levels: Mapping[str, FloatArray]
    links: Mapping[str, IntArray]
    linking: Rows

    @classmethod
    def fit(cls, features: Mapping[str, Tensor], positions: Mapping[str, IntArray]) -> ContentValues:
        """Read features of the known items: ids [M, L] or numbers [M] by name. positions: which known item each padded
        id of a feature names, -1 for none."""
        items = len(next(iter(features.values()))) if features else 0
        links = {
            name: np.where(p >= 0, p, items + np.arange(len(p)))
            for name, p in positions.items()
            if is_link(p[FIRST:] >= 0, items)
        }
        numbers = {n: v.double().numpy() for n, v in features.items() if v.is_floating_point()}
        levels = {name: number_levels(values[np.isfinite(values)]) for name, values in numbers.items()}
        linking = {name: _id_rows(features[name]).T.tocsr() for name in links}
        empty = cls({}, levels, links, linking)
        known = {name: empty._encode(name, values) for name, values in sorted(features.items())}
        known = {n: _with_links(m) if n in links else m for n, m in known.items()}
        return cls({name: matrix for name, matrix in known.items() if matrix.nnz}, levels, links, linking)

    def rows(self, features: Mapping[str, Tensor], own_ids: Mapping[str, IntArray]) -> Rows:
        """Encode N new items: rows [N, V] by feature. own_ids: the padded ids [N] by which values of a feature that
        links items name the new ones, 0 for none; known items that name one are linked with it."""
        rows = {name: self._encode(name, features[name]) for name in self.known}
        for name in self.links.keys() & rows.keys():
            at, column = own_ids[name], self.links[name]
            named = np.flatnonzero((at >= FIRST) & (at < self.linking[name].shape[0]))
            itself = _indicators(named, column[at[named]], rows[name].shape)
            linking = _resized(self.linking[name][np.where(np.isin(np.arange(len(at)), named), at, 0)], itself.shape[1])
            rows[name] = _ones((rows[name] + linking + itself).tocsr())
        return rows

    def _encode(self, name: str, values: Tensor) -> sp.csr_matrix:
        """Encode values of N items, [N, V]; of links V is the number of known items and of padded ids."""
        if values.is_floating_point():
            return bin_shares(values.double().numpy(), self.levels[name])
        rows = _id_rows(values)
        if name in self.links:
            column, items = self.links[name], self.linking[name].shape[1]
            targets = _indicators(np.arange(len(column)), column, (len(column), items + len(column)))
            return _ones(_resized(rows, len(column)).dot(targets).tocsr())
        return _resized(rows, self.known[name].shape[1]) if name in self.known else rows


@dataclass(frozen=True)
class ContentProfiles:
    """Values of known items, weighted by a form, in groups: all features together, and each by itself."""

    values: ContentValues
    form: ContentForm

    @cached_property
    def groups(self) -> Sequence[str]:
        """Names of the groups."""
        names = list(self.values.known)
        return [ALL_FEATURES, *names] if len(names) > 1 else names

    @cached_property
    def known(self) -> Rows:
        """Rows [M, V] of the known items by group."""
        return {g: unit_rows(self._group(self.values.known, g), 1.0, self._added[g]) for g in self.groups}

    def new(self, rows: Rows) -> Rows:
        """Weigh rows [N, V] by feature as those of new items, by group."""
        return {g: unit_rows(self._group(rows, g), self.form.length, self._added[g]) for g in self.groups}

    def reference(self, positions: IntArray) -> Rows:
        """Rows [R, V] of some known items, by group, as if they were new."""
        return self.new({name: matrix[positions] for name, matrix in self.values.known.items()})

    @cached_property
    def _added(self) -> Mapping[str, float]:
        squares = {g: mean_square(self._group(self.values.known, g)) if self.form.smooth else 0.0 for g in self.groups}
        return {group: self.form.smooth * square for group, square in squares.items()}

    def _group(self, rows: Rows, group: str) -> sp.csr_matrix:
        names = list(self.values.known) if group == ALL_FEATURES and group not in rows else [group]
        return sp.hstack([rows[name].dot(self._rarity[name]) for name in names]).tocsr()

    @cached_property
    def _rarity(self) -> Mapping[str, sp.dia_matrix]:
        weights = {}
        for name, matrix in self.values.known.items():
            count = np.asarray((matrix > 0).sum(0)).ravel()
            idf = np.maximum(np.log((1 + matrix.shape[0]) / (1 + count)), 0) ** self.form.rarity
            weights[name] = sp.diags(np.where(count > 0, idf, 0).astype(np.float32))
        return weights


def _id_rows(values: Tensor) -> sp.csr_matrix:
    """Padded ids [N, L] as zeros and ones [N, V]."""
    ids = values.numpy()
    row, ids = np.repeat(np.arange(len(ids)), ids.shape[1]), ids.ravel()
    keep = ids >= FIRST
    return _indicators(row[keep], ids[keep], (len(values), int(ids.max(initial=FIRST)) + 1))


def _indicators(row: IntArray, column: IntArray, shape: tuple[int, int]) -> sp.csr_matrix:
    return _ones(sp.csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=shape))


def _ones(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Set what is not zero to one."""
    matrix.eliminate_zeros()
    matrix.data[:] = 1
    return matrix.astype(np.float32)


def _resized(matrix: sp.csr_matrix, columns: int) -> sp.csr_matrix:
    """Cut or widen to some columns: values that no known item has say nothing."""
    matrix = matrix.copy()
    matrix.resize((matrix.shape[0], columns))
    return matrix


def _with_links(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Add to links [M, V] of known items, whose own columns come first, those of the other direction, and of each
    linked item with itself."""
    back = _resized(matrix[:, : matrix.shape[0]].T.tocsr(), matrix.shape[1])
    both = (matrix + back).tocsr()
    ends = np.flatnonzero(np.diff(both.indptr) > 0)
    return _ones((both + _indicators(ends, ends, both.shape)).tocsr())
