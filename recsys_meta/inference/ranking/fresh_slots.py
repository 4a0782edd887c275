"""Slots of a list for new items with few events: at most so many, or a share of all lists, filled by Thompson draws.

What is put into a slot is drawn from all items with few events that the list may hold; the probability with which it
was drawn is known, so that what was tried can be judged afterwards by inverse propensity weighting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.inference.ranking.thompson_sampling import propensity, thompson_draw
from recsys_meta.inference.ranking.topk import TopK

MOST_CANDIDATES = 200
"""Items with few events that a slot is drawn from, those of the highest scores."""


@dataclass(frozen=True)
class FreshPolicy:
    """Slots for items that came after the training and have fewer than `events` likes: at most `slots` in a list, or a
    `share` of the places of all lists; `seed` makes equal draws."""

    slots: int | None = None
    share: float | None = None
    events: int = 20
    seed: int = 0


class FreshDraw(NamedTuple):
    """An item (its id) that was drawn for a slot, its score, its propensity, and how many could have been drawn."""

    item: int
    score: float
    propensity: float
    candidates: int


def slot_counts(policy: FreshPolicy, n: int, uniform: FloatArray) -> IntArray:
    """Count the slots of T lists of n items, given a uniform number [T] each: shares that are no whole number of places
    are rounded at random, so that they hold on average."""
    if policy.share is None:
        return np.full(len(uniform), min(policy.slots or 0, n))
    counts: IntArray = np.floor(policy.share * n + uniform).astype(np.int64)
    return np.minimum(counts, n)


def slot_chances(policy: FreshPolicy, n: int) -> FloatArray:
    """Probability [S] that a list of n items has a first, a second, ... slot."""
    mean = min(policy.slots or 0, n) if policy.share is None else policy.share * n
    return np.clip(mean - np.arange(math.ceil(mean)), 0, 1)


def deviations(scores: Tensor, events: Tensor) -> Tensor:
    """Standard deviations [F] of the scores of items with some events [F]: those of an entity's scores [C] where there
    is no event, and less with each, as of a mean."""
    known = scores[torch.isfinite(scores)]
    return known.double().std(correction=0) / (1 + events.double()).sqrt()


def draw_slots(policy: FreshPolicy, n: int, candidates: TopK, deviation: Tensor) -> list[FreshDraw]:
    """Draw items for the slots of a list of n, from candidates (scores and ids) with deviations [F].

    Each slot is a draw of its own from those that are left, and its propensity that of the item among them, times the
    probability that there was such a slot.
    """
    uniform = np.random.default_rng(policy.seed).random(1)
    slots, chances = int(slot_counts(policy, n, uniform)[0]), slot_chances(policy, n)
    mean = torch.tensor([score for score, _ in candidates], dtype=torch.float64)
    left, draws = list(range(len(candidates))), list[FreshDraw]()
    for slot in range(min(slots, len(candidates))):
        m, s = mean[left], deviation[left]
        first = int(thompson_draw(m, s, policy.seed + slot + 1).argmax())
        chance = propensity(first, m, s) * float(chances[slot])
        score, item = candidates[left[first]]
        draws.append(FreshDraw(item, score, chance, len(left)))
        left.pop(first)
    return draws


def merge_slots(ranked: TopK, drawn: Sequence[FreshDraw], n: int) -> TopK:
    """Merge other items, best first, and those that were drawn to a list of n in the order of their scores."""
    rest = list(ranked[: n - len(drawn)])
    return sorted([*rest, *((one.score, one.item) for one in drawn)], key=lambda pair: (-pair[0], pair[1]))
