"""Lists of known and new items together, from the leading items of each: all that a short list shows of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.metrics.ranking_metrics import metrics_of_lists, ndcg_of_hits
from recsys_meta.models.new_items.catalogue_placement import CataloguePlacement

DEPTH = 20
KEPT = 10
"""Places of known items whose quality new ones may hardly cost, and the place that new ones are put beside."""

SCALES = tuple(2.0**power for power in range(-7, 2))
"""Factors of the new items' scores, of which one is chosen."""

HALVINGS = 14
"""Halvings of the range of offsets: what is left is a hundredth of a deviation at most."""

MOST_LOSS = 0.01
"""Share of the known items' nDCG@10 that new items may cost."""

CONFIDENCE = 2.326
"""Standard errors by which the loss in validation must stay below that: each of five choices, by the number of first
events, then holds with a chance of 99%, and all of them with one of 95%."""


class LeadingItems(NamedTuple):
    """The best `DEPTH` candidates of u entities: scores [u, D], descending; hits [u, D] bool; total [u]: relevant
    candidates."""

    scores: Tensor
    hits: Tensor
    total: Tensor

    @classmethod
    def of(cls, scores: Tensor, relevant: Tensor, candidates: Tensor) -> Self:
        """Find the leading of some candidates by standardized scores [u, C]."""
        relevant = relevant & candidates
        top = scores.masked_fill(~candidates | scores.isnan(), -torch.inf).topk(min(DEPTH, scores.shape[1]), 1)
        return cls(top.values, relevant.gather(1, top.indices), relevant.sum(1))

    def at(self, position: IntArray) -> LeadingItems:
        """Leading items of some of the entities, by their positions."""
        return LeadingItems(*(part[torch.from_numpy(position)] for part in self))

    def metrics(self) -> dict[str, FloatArray]:
        """Metrics [u] of lists of these items alone."""
        return _arrays(metrics_of_lists(self.hits, self.total))


@dataclass(frozen=True)
class MergedLists:
    """Lists of u entities, merged from the leading known and the leading new items of each."""

    known: LeadingItems
    new: LeadingItems

    def known_metrics(self, placement: CataloguePlacement | None) -> dict[str, FloatArray]:
        """Metrics [u] of the known items beside new ones; without a placement scores are compared as they are."""
        return _arrays(metrics_of_lists(self._hits(placement)[0], self.known.total))

    def new_metrics(self, placement: CataloguePlacement | None) -> dict[str, FloatArray]:
        """Metrics [u] of the new items among all."""
        return _arrays(metrics_of_lists(self._hits(placement)[1], self.new.total))

    def choose_placement(self, lifts: Sequence[float] = (math.inf,)) -> CataloguePlacement:
        """Choose where new items stand: of the places that surely cost known ones little the one where lists are best.

        For a scale and a lift that is the highest offset at which the upper bound of the known items' loss is
        `MOST_LOSS`; of these the one with the highest nDCG@20 of lists in which known and new items count alike. The
        scale is chosen at the highest lift, which says least, and the lift at that scale.
        """
        highest = max(lifts)
        chosen = max((self._highest(scale, highest) for scale in SCALES), key=self._quality)
        others = (self._highest(chosen.scale, lift) for lift in lifts if lift != highest)
        return max((chosen, *others), key=self._quality)

    def _quality(self, placement: CataloguePlacement) -> float:
        known, new = self._hits(placement)
        return float(ndcg_of_hits(known | new, self.known.total + self.new.total).nanmean())

    def _highest(self, scale: float, lift: float) -> CataloguePlacement:
        """Find the highest offset: known items lose the more the higher new ones stand, and nothing below them all."""
        parts = self.known.scores - self._tenth, scale * self.new.scores.abs().log1p()
        low, high = -1.0, 1.0
        finite = [part[part.isfinite()].abs().max() for part in parts if part.isfinite().any()]
        low, high = low - float(sum(finite)), high + float(sum(finite))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            is_dear = self._most_loss(CataloguePlacement(scale, middle, lift)) > MOST_LOSS
            low, high = (low, middle) if is_dear else (middle, high)
        return CataloguePlacement(scale, low, lift)

    def _most_loss(self, placement: CataloguePlacement) -> float:
        """Upper bound of the share of their nDCG@10 that known items lose; 0 where they have none."""
        alone = self._known_alone
        beside = ndcg_of_hits(self._hits(placement)[0][:, :KEPT], self.known.total)
        has = ~alone.isnan()
        loss, whole = (alone - beside)[has].double(), float(alone[has].sum())
        if whole <= 0:
            return 0.0
        error = float(loss.std(correction=0)) / math.sqrt(len(loss))
        return (float(loss.mean()) + CONFIDENCE * error) * len(loss) / whole

    @cached_property
    def _known_alone(self) -> Tensor:
        """Known items' nDCG@10 [u] without new ones; NaN for an entity that likes none of them."""
        return ndcg_of_hits(self.known.hits[:, :KEPT], self.known.total)

    @cached_property
    def _tenth(self) -> Tensor:
        """Score [u, 1] of each entity's tenth known item, or of its last one."""
        finite = self.known.scores[:, :KEPT].isfinite()
        last = (finite.sum(1, keepdim=True) - 1).clamp(min=0)
        if not self.known.scores.shape[1]:
            return torch.zeros(len(self.known.scores), 1)
        return self.known.scores.gather(1, last).nan_to_num(neginf=0.0)

    def _hits(self, placement: CataloguePlacement | None) -> tuple[Tensor, Tensor]:
        """Hits [u, DEPTH] of known and of new items in the lists."""
        moved = self.new.scores
        if placement is not None:
            moved = torch.where(moved.isfinite(), placement.place(moved.nan_to_num(), self._tenth), -torch.inf)
        both = torch.cat([self.known.scores, moved], 1)
        order = both.sort(dim=1, descending=True, stable=True).indices[:, :DEPTH]
        none = [torch.zeros_like(part.hits) for part in (self.known, self.new)]
        hits = torch.cat([self.known.hits, none[1]], 1), torch.cat([none[0], self.new.hits], 1)
        return hits[0].gather(1, order), hits[1].gather(1, order)


def _arrays(metrics: dict[str, Tensor]) -> dict[str, FloatArray]:
    return {name: np.asarray(value.double().numpy()) for name, value in metrics.items()}
