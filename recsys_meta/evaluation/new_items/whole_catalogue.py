"""New items among all: how they do in lists of the whole catalogue, and what the known items lose by them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.metrics.ranking_metrics import NEW_ITEMS, ndcg, new_item_metrics
from recsys_meta.models.new_items.item_task import ItemTask, Scores, standardize
from recsys_meta.models.new_items.signals import known_item_scores

OFFSETS = np.arange(-4.0, 4.01, 0.5)
"""Deviations by which new items are moved against known ones, of which one is chosen."""

MOST_LOSS = 0.01
"""Share of the known items' nDCG@10 that new items may cost in validation."""

PENALTY = 0.3
BLOCK = 256


@dataclass(frozen=True)
class WholeCatalogue:
    """Ranking of known items by a ridge regression on histories, and of new ones beside them by any scores.

    Both are standardized for each entity; new ones are moved by an offset that is chosen in validation: of those that
    cost known items at most `MOST_LOSS` the one with which new items do best.
    """

    task: ItemTask

    @cached_property
    def _known(self) -> Scores:
        return known_item_scores(self.task, PENALTY)

    def scores(self, new: Scores, entities: IntArray, offset: float) -> torch.Tensor:
        """Scores [u, M + N] of known and new items."""
        both = [standardize(self._known(entities)), standardize(new(entities)) + np.float32(offset)]
        return torch.from_numpy(np.concatenate(both, 1))

    def candidates(self, open_new: FloatArray, entities: IntArray) -> torch.Tensor:
        """Mark the items that are ranked [u, M + N]: known ones that an entity has not met, and open new ones."""
        met = np.asarray(self.task.history[entities].todense()) > 0
        return torch.from_numpy(np.concatenate([~met, open_new > 0], 1))

    def liked(self, known: sp.csr_matrix, new: sp.csr_matrix, entities: IntArray) -> torch.Tensor:
        """Mark what entities took [u, M + N], given rows of known [E, M] and of new items [E, N]."""
        return torch.from_numpy(sp.hstack([known[entities], new[entities]]).toarray() > 0)

    def choose_offset(
        self, new: Scores, known_rows: sp.csr_matrix, new_rows: sp.csr_matrix, open_new: FloatArray, entities: IntArray
    ) -> float:
        """Choose the offset on validation rows of some entities."""
        nothing = sp.csr_matrix(known_rows.shape), sp.csr_matrix(new_rows.shape)
        candidates = self.candidates(open_new, entities)
        of_new = self.liked(nothing[0], new_rows, entities)
        of_known = self.liked(known_rows, nothing[1], entities)
        scores, first_new = self.scores(new, entities, 0.0), known_rows.shape[1]
        alone = float(ndcg(scores, of_known, candidates & _before(candidates, first_new)).nanmean())
        best = (-np.inf, float(OFFSETS[0]))
        for offset in OFFSETS.tolist():
            moved = scores.clone()
            moved[:, first_new:] += offset
            loss = alone - float(ndcg(moved, of_known, candidates).nanmean())
            if not loss > MOST_LOSS * alone:
                best = max(best, (float(ndcg(moved, of_new, candidates, 20).nanmean()), offset))
        return best[1]

    def metrics(
        self, new: Scores, offset: float, rows: tuple[sp.csr_matrix, sp.csr_matrix], open_new: FloatArray, at: IntArray
    ) -> dict[str, FloatArray]:
        """Metrics [u] of the entities `at` for rows of known [E, M] or new items [E, N], `open_new` [u, N]."""
        generator, parts = torch.Generator().manual_seed(0), []
        for start in range(0, len(at), BLOCK):
            some = at[start : start + BLOCK]
            candidates = self.candidates(open_new[start : start + BLOCK], some)
            scores = self.scores(new, some, offset)
            parts.append(new_item_metrics(scores, self.liked(*rows, some), candidates, generator))
        return {name: np.concatenate([np.zeros(0), *(p[name].double().numpy() for p in parts)]) for name in NEW_ITEMS}


def _before(candidates: torch.Tensor, column: int) -> torch.Tensor:
    mask = torch.zeros_like(candidates)
    mask[:, :column] = True
    return mask
