"""New items among all: how they do in lists of the whole catalogue, what known items lose by them, and how they will do
once a model is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.episodes.item_split import COLD_TEST, COLD_VALID, WARM_TEST, WARM_VALID, ItemSplit, binary_rows
from recsys_meta.evaluation.new_items.item_point import ItemPoint
from recsys_meta.evaluation.new_items.merged_lists import LeadingItems, MergedLists
from recsys_meta.metrics.ranking_metrics import NEW_ITEMS, ndcg, new_item_metrics
from recsys_meta.models.new_items.catalogue_placement import CataloguePlacement
from recsys_meta.models.new_items.item_task import ItemTask, Scores
from recsys_meta.models.new_items.known_items import KnownItemRanker, KnownSetting

BLOCK = 256
"""Entities that are ranked at once."""

VALIDATION_ENTITIES = 1000
"""Entities on which the ranking of known items is chosen."""

LATER_SHARE = 0.2
"""Share of the rows of new items that a model that is trained on the others is measured by."""

Metrics = dict[str, FloatArray]


class CatalogueResult(NamedTuple):
    """Metrics over `WholeCatalogue.entities` in lists of the whole catalogue: of new items and of known ones, and of
    new items by their later rows alone, beside those of a model that was trained on the earlier ones, and known items'
    in the lists of that model."""

    placement: CataloguePlacement | None
    new: Metrics
    known: Metrics
    later: Metrics
    trained: Metrics
    known_trained: Metrics


class WholeCatalogue:
    """Ranking of known items, and of new ones beside them by any scores.

    Known items are ranked by histories, by what is best on their validation rows. Scores are standardized for each
    entity over what it can be shown: items that it has met would widen the known ones' scores, for some entities more
    than for others. `entities` [u]: those with a history.
    """

    def __init__(self, split: ItemSplit, task: ItemTask) -> None:
        self._split, self._task = split, task
        self.entities: IntArray = np.flatnonzero(np.diff(task.history.indptr) > 0)
        self._ranker = KnownItemRanker(task.history)
        self._trained: dict[int, tuple[Metrics, Metrics]] = {}

    @cached_property
    def setting(self) -> KnownSetting:
        """Settings of the known items' ranking, by nDCG@10 of their validation rows."""
        rows = self._known_rows(WARM_VALID)
        at = self.entities[np.diff(rows.indptr)[self.entities] > 0]
        if not len(at):
            return KnownSetting(0.3, None)
        at = np.sort(np.random.default_rng(0).choice(at, min(VALIDATION_ENTITIES, len(at)), replace=False))

        def quality(setting: KnownSetting) -> float:
            values = []
            for start in range(0, len(at), BLOCK):
                some = at[start : start + BLOCK]
                scores = torch.from_numpy(self._ranker.scores(self._task.history[some], setting))
                unmet = torch.from_numpy(self._unmet(some))
                values.append(ndcg(scores, torch.from_numpy(rows[some].toarray() > 0), unmet))
            return float(torch.cat(values).nanmean())

        return self._ranker.choose(quality)

    @cached_property
    def known(self) -> LeadingItems:
        """Leading known items of the entities, by their test rows."""
        return self._leading_known(WARM_TEST)

    @cached_property
    def _valid_known(self) -> LeadingItems:
        return self._leading_known(WARM_VALID)

    def known_scores(self, some: IntArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Scores [u, M] of known items for some entities, standardized over those that they have not met, a mask."""
        unmet = self._unmet(some)
        return standardize_among(self._ranker.scores(self._task.history[some], self.setting), unmet), unmet

    def scores_after(self, items: IntArray) -> FloatArray:
        """Scores [P, M] of known items for P histories of one known item each, by its position."""
        cells = np.ones(len(items), np.float32), (np.arange(len(items)), items)
        return self._ranker.scores(sp.csr_matrix(cells, shape=(len(items), len(self._task.known))), self.setting)

    def measure(
        self, scores: Scores, valid: ItemPoint, test: ItemPoint, shots: int, is_placed: bool = False
    ) -> CatalogueResult:
        """Place new items by scores on validation rows, and measure them in the lists of the test. Where scores are
        placed already, they are in the units of `known_scores`."""
        rows, leading = test.query.multiply(self._later[0]).tocsr(), partial(self._leading_new, scores, is_placed)
        placement = None
        if not is_placed:
            placement = MergedLists(self._valid_known, leading(valid, valid.query)).choose_placement()
        lists = MergedLists(self.known, leading(test, test.query))
        later = MergedLists(self.known, leading(test, rows, self._later[1]))
        if shots not in self._trained:
            self._trained[shots] = self._measure_trained(test)
        return CatalogueResult(
            placement,
            lists.new_metrics(placement),
            lists.known_metrics(placement),
            later.new_metrics(placement),
            *self._trained[shots],
        )

    def choose_placement(self, relevance: Scores, valid: ItemPoint, lifts: Sequence[float]) -> CataloguePlacement:
        """Choose on validation rows where new items stand by their relevance, which is standardized already."""
        return MergedLists(self._valid_known, self._leading_new(relevance, True, valid, valid.query)).choose_placement(
            lifts
        )

    def _leading_known(self, part: int) -> LeadingItems:
        rows, parts = self._known_rows(part), []
        for start in range(0, len(self.entities), BLOCK):
            some = self.entities[start : start + BLOCK]
            scores, unmet = self.known_scores(some)
            liked = torch.from_numpy(rows[some].toarray() > 0)
            parts.append(LeadingItems.of(torch.from_numpy(scores), liked, torch.from_numpy(unmet)))
        return _joined(parts)

    def _leading_new(
        self,
        scores: Scores,
        is_placed: bool,
        point: ItemPoint,
        query: sp.csr_matrix,
        closed: sp.csr_matrix | None = None,
    ) -> LeadingItems:
        """Leading new items of the entities by a query [E, N], without what is closed to them [E, N]."""
        order, parts = np.random.default_rng(0).permutation(len(self._task.new)), []  # ties fall at random
        for start in range(0, len(self.entities), BLOCK):
            some = self.entities[start : start + BLOCK]
            is_open = _open(point, some, closed)
            z = scores(some) if is_placed else standardize_among(scores(some), is_open)
            liked = query[some].toarray() > 0
            parts.append(
                LeadingItems.of(*(torch.from_numpy(np.ascontiguousarray(m[:, order])) for m in (z, liked, is_open)))
            )
        return _joined(parts)

    @cached_property
    def _later(self) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """Rows of new items by which a model that knows the other ones is measured, and those others, [E, N]."""
        split, new = self._split, self._task.new
        test = np.flatnonzero(split.part == COLD_TEST)
        is_later = np.random.default_rng(0).random(len(test)) < LATER_SHARE
        other = np.concatenate([test[~is_later], np.flatnonzero(split.part == COLD_VALID)])
        shape = split.entities, split.catalogue
        later, known = (binary_rows(split.entity[i], split.item[i], shape)[:, new] for i in (test[is_later], other))
        return (later - later.multiply(known)).tocsr(), known.tocsr()

    def _measure_trained(self, test: ItemPoint) -> tuple[Metrics, Metrics]:
        """Measure new items, and known ones, in lists of a model that was trained on all rows of new items but the
        later ones."""
        later, known = self._later
        liked_rows = self._known_rows(WARM_TEST), test.query.multiply(later).tocsr()
        rows, ranker = sp.hstack([self._task.history, known]).tocsr(), self._trained_ranker
        generator = torch.Generator().manual_seed(0)
        values: tuple[list[dict[str, torch.Tensor]], list[dict[str, torch.Tensor]]] = [], []
        for start in range(0, len(self.entities), BLOCK):
            some = self.entities[start : start + BLOCK]
            candidates = torch.from_numpy(np.concatenate([self._unmet(some), _open(test, some, known)], 1))
            scores = torch.from_numpy(ranker.scores(rows[some], self.setting))
            likes = [torch.from_numpy(part[some].toarray() > 0) for part in liked_rows]
            of_known = torch.cat([likes[0], torch.zeros_like(likes[1])], 1)
            of_new = torch.cat([torch.zeros_like(likes[0]), likes[1]], 1)
            for part, liked in zip(values, (of_new, of_known), strict=True):
                part.append(new_item_metrics(scores, liked, candidates, generator))
        new, of_known_items = (
            {name: np.concatenate([v[name].double().numpy() for v in part]) for name in NEW_ITEMS} for part in values
        )
        return new, of_known_items

    @cached_property
    def _trained_ranker(self) -> KnownItemRanker:
        return KnownItemRanker(sp.hstack([self._task.history, self._later[1]]).tocsr())

    def _unmet(self, some: IntArray) -> npt.NDArray[np.bool_]:
        unmet: npt.NDArray[np.bool_] = self._task.history[some].toarray() == 0
        return unmet

    def _known_rows(self, part: int) -> sp.csr_matrix:
        return self._split.matrix(part)[:, self._task.known].tocsr()


def _open(point: ItemPoint, some: IntArray, closed: sp.csr_matrix | None) -> npt.NDArray[np.bool_]:
    is_open: npt.NDArray[np.bool_] = point.open_for(some) > 0
    return is_open if closed is None else is_open & (closed[some].toarray() == 0)


def _joined(parts: list[LeadingItems]) -> LeadingItems:
    return LeadingItems(*(torch.cat(column) for column in zip(*parts, strict=True)))


def standardize_among(scores: FloatArray, candidates: npt.NDArray[np.bool_]) -> FloatArray:
    """Standardize the scores [u, N] of each entity by the mean and deviation of its candidates."""
    count = np.maximum(candidates.sum(1, keepdims=True), 1).astype(np.float32)
    centred = scores - np.where(candidates, scores, 0).sum(1, keepdims=True) / count
    deviation = np.sqrt(np.square(np.where(candidates, centred, 0)).sum(1, keepdims=True) / count)
    result: FloatArray = (centred / np.where(deviation > 1e-9, deviation, 1)).astype(np.float32)
    return result
