"""One point of the curve of new items: what is known of them, who took them afterwards, and metrics of methods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.metrics.ranking_metrics import NEW_ITEMS, ndcg, new_item_metrics
from recsys_meta.models.new_items.item_task import ItemTask, Scores
from recsys_meta.models.new_items.signal_blend import Quality

BLOCK = 512
"""Entities that are ranked at once."""

VALIDATION_ENTITIES = 500
VALIDATION_SCORES = 1 << 21
"""Entities that choices are made on, and the most scores of one signal for them."""


@dataclass(frozen=True)
class ItemPoint:
    """One point of the curve for validation or test items: query [U, N], what entities took after the supports;
    candidates [N], the new items that are ranked; `entities` [u] with a query."""

    task: ItemTask
    query: sp.csr_matrix
    candidates: FloatArray
    entities: IntArray

    def liked(self, entities: IntArray) -> FloatArray:
        """Mark the items that entities took, [u, N]."""
        return np.asarray(self.query[entities].todense(), np.float32)

    def open_for(self, entities: IntArray) -> FloatArray:
        """Candidates of entities [u, N]: those without the items that they took in a support."""
        return self.candidates * (1 - np.asarray(self.task.support[entities].todense(), np.float32))

    def metrics(self, scores: Scores, entities: IntArray) -> dict[str, FloatArray]:
        """Metrics of some entities, each [u]."""
        generator, parts = torch.Generator().manual_seed(0), []
        for start in range(0, len(entities), BLOCK):
            some = entities[start : start + BLOCK]
            liked, candidates = torch.from_numpy(self.liked(some)) > 0, torch.from_numpy(self.open_for(some)) > 0
            values = torch.from_numpy(np.array(scores(some), np.float32))
            parts.append(new_item_metrics(values, liked, candidates, generator))
        return {name: np.concatenate([p[name].double().numpy() for p in parts]) for name in NEW_ITEMS}

    def quality(self, scores: Scores, entities: IntArray) -> float:
        """Mean nDCG@20 of some entities: what choices are made by."""
        return self.quality_for(entities)(scores(entities), np.arange(len(entities)))

    def quality_for(self, entities: IntArray) -> Quality:
        """Quality of scores for some entities, by their positions among these."""
        liked, candidates = torch.from_numpy(self.liked(entities)) > 0, torch.from_numpy(self.open_for(entities)) > 0

        def quality(scores: FloatArray, some: IntArray) -> float:
            values = torch.from_numpy(np.array(scores, np.float32))
            return float(ndcg(values, liked[some], candidates[some], 20).nanmean())

        return quality

    def sample(self) -> IntArray:
        """Some entities with a query, for choices."""
        count = min(len(self.entities), VALIDATION_ENTITIES, max(50, VALIDATION_SCORES // max(len(self.candidates), 1)))
        return np.sort(np.random.default_rng(0).choice(self.entities, count, replace=False))
