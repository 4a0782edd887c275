"""New items among all: how they do in lists of the whole catalogue, and what the known items lose by them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.metrics.ranking_metrics import NEW_ITEMS, ndcg_of_hits, new_item_metrics
from recsys_meta.models.new_items.item_task import ItemTask, Scores
from recsys_meta.models.new_items.signals import known_item_scores

SCALES = tuple(2.0**power for power in range(-6, 2))
"""Factors of the new items' standardized scores, of which one is chosen."""

HALVINGS = 14
"""Halvings of the range of offsets: what is left is a hundredth of a deviation at most."""

MOST_LOSS = 0.01
"""Share of the known items' nDCG@10 that new items may cost in validation."""

PENALTY = 0.3
DEPTH = 20
BLOCK = 256


class CataloguePlacement(NamedTuple):
    """Place of new items among known ones: standardized scores times `scale` plus `offset`, in deviations of the known
    items' scores."""

    scale: float
    offset: float


@dataclass(frozen=True)
class LeadingItems:
    """The best `DEPTH` known and new candidates of u entities, all that a list shows of them: scores [u, DEPTH] and
    hits [u, DEPTH] of each, totals [u] of the relevant candidates."""

    known: torch.Tensor
    new: torch.Tensor
    known_hits: torch.Tensor
    new_hits: torch.Tensor
    known_total: torch.Tensor
    new_total: torch.Tensor

    def known_ndcg(self, placement: CataloguePlacement) -> float:
        """Mean nDCG@10 of the known items beside new ones."""
        hits = torch.cat([self.known_hits, torch.zeros_like(self.new_hits)], 1)
        return float(ndcg_of_hits(self._first(hits, placement, 10), self.known_total).nanmean())

    def new_ndcg(self, placement: CataloguePlacement) -> float:
        """Mean nDCG@20 of the new items among all."""
        hits = torch.cat([torch.zeros_like(self.known_hits), self.new_hits], 1)
        return float(ndcg_of_hits(self._first(hits, placement, 20), self.new_total).nanmean())

    def _first(self, hits: torch.Tensor, placement: CataloguePlacement, depth: int) -> torch.Tensor:
        both = torch.cat([self.known, self.new * placement.scale + placement.offset], 1)
        return hits.gather(1, both.topk(min(depth, both.shape[1]), 1).indices)

    def highest(self, scale: float) -> CataloguePlacement:
        """Find the highest offset at which known items lose at most `MOST_LOSS`: they lose the more the higher new ones
        stand, and nothing where all of these are below them."""
        known, new = (float(s[s.isfinite()].abs().max()) if s.isfinite().any() else 0.0 for s in (self.known, self.new))
        high = known + scale * new + 1
        low, least = -high, (1 - MOST_LOSS) * self.known_ndcg(CataloguePlacement(scale, -high))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.known_ndcg(CataloguePlacement(scale, middle)) < least else (middle, high)
        return CataloguePlacement(scale, low)


@dataclass(frozen=True)
class WholeCatalogue:
    """Ranking of known items by a ridge regression on histories, and of new ones beside them by any scores.

    Both are standardized for each entity, over what it can be shown: items that it has met would widen the known ones'
    scores, for some entities more than for others. A scale and an offset of the new ones are chosen in validation: of
    those that cost known items at most `MOST_LOSS` the ones with which new items do best.
    """

    task: ItemTask

    @cached_property
    def _known(self) -> Scores:
        return known_item_scores(self.task, PENALTY)

    def lists(
        self, new: Scores, open_new: FloatArray, entities: IntArray, placement: CataloguePlacement
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [u, M + N] of known and new items, and which are ranked: known ones that an entity has not met, and
        open new ones."""
        unmet, is_open = np.asarray(self.task.history[entities].todense()) == 0, open_new > 0
        known = _standardize_among(self._known(entities), unmet)
        moved = _standardize_among(new(entities), is_open) * placement.scale + placement.offset
        scores = np.concatenate([known, moved], 1, dtype=np.float32)
        return torch.from_numpy(scores), torch.from_numpy(np.concatenate([unmet, is_open], 1))

    def liked(self, known: sp.csr_matrix, new: sp.csr_matrix, entities: IntArray) -> torch.Tensor:
        """Mark what entities took [u, M + N], given rows of known [E, M] and of new items [E, N]."""
        return torch.from_numpy(sp.hstack([known[entities], new[entities]]).toarray() > 0)

    def choose_placement(
        self, new: Scores, rows: tuple[sp.csr_matrix, sp.csr_matrix], open_new: FloatArray, entities: IntArray
    ) -> CataloguePlacement:
        """Choose the placement on validation rows of known [E, M] and new items [E, N], `open_new` [u, N]."""
        leading = self._leading(new, rows, open_new, entities)
        return max((leading.highest(scale) for scale in SCALES), key=leading.new_ndcg)

    def _leading(
        self, new: Scores, rows: tuple[sp.csr_matrix, sp.csr_matrix], open_new: FloatArray, entities: IntArray
    ) -> LeadingItems:
        parts = []
        for start in range(0, max(len(entities), 1), BLOCK):
            some, first_new = entities[start : start + BLOCK], len(self.task.known)
            scores, candidates = self.lists(new, open_new[start : start + BLOCK], some, CataloguePlacement(1.0, 0.0))
            relevant = self.liked(*rows, some) & candidates
            scores = scores.masked_fill(~candidates | scores.isnan(), -torch.inf)
            known = _lead(scores[:, :first_new], relevant[:, :first_new])
            of_new = _lead(scores[:, first_new:], relevant[:, first_new:])
            parts.append([x for pair in zip(known, of_new, strict=True) for x in pair])
        return LeadingItems(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def metrics(
        self,
        new: Scores,
        placement: CataloguePlacement,
        rows: tuple[sp.csr_matrix, sp.csr_matrix],
        open_new: FloatArray,
        at: IntArray,
    ) -> dict[str, FloatArray]:
        """Metrics [u] of the entities `at` for rows of known [E, M] or new items [E, N], `open_new` [u, N]."""
        generator, parts = torch.Generator().manual_seed(0), []
        for start in range(0, len(at), BLOCK):
            some = at[start : start + BLOCK]
            scores, candidates = self.lists(new, open_new[start : start + BLOCK], some, placement)
            parts.append(new_item_metrics(scores, self.liked(*rows, some), candidates, generator))
        return {name: np.concatenate([np.zeros(0), *(p[name].double().numpy() for p in parts)]) for name in NEW_ITEMS}


def _lead(scores: torch.Tensor, relevant: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    top = scores.topk(min(DEPTH, scores.shape[1]), 1)
    return top.values, relevant.gather(1, top.indices), relevant.sum(1)


def _standardize_among(scores: FloatArray, candidates: npt.NDArray[np.bool_]) -> FloatArray:
    """Standardize the scores [u, N] of each entity by the mean and deviation of its candidates."""
    count = np.maximum(candidates.sum(1, keepdims=True), 1).astype(np.float32)
    centred = scores - np.where(candidates, scores, 0).sum(1, keepdims=True) / count
    deviation = np.sqrt(np.square(np.where(candidates, centred, 0)).sum(1, keepdims=True) / count)
    result: FloatArray = centred / np.where(deviation > 1e-9, deviation, 1)
    return result
