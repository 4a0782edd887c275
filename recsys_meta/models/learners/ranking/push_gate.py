"""Push: how far dislikes move an entity's scores, chosen on episodes after training.

A gate (w, h) weighs the push of m dislikes by w m / (m + h). The gain in nDCG@10 is measured cross-fitted, each entity
by the gate that is best for the others: the best of many candidates always seems to gain something.

What dislikes add is small, so meta-training entities have their say beside those of meta-validation; the latter, whose
likes nothing was trained on, must confirm the choice.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from recsys_meta.core.types import TaskBatch
from recsys_meta.metrics.ranking_metrics import ndcg
from recsys_meta.models.learners.ranking.memory_gates import (
    CLOSED_GATE,
    HALVES,
    Gate,
    growing_weight,
    relevant_and_candidates,
)

WEIGHTS = (0.025, 0.05, 0.1, 0.2, 0.4)
"""First candidates for w; greater ones follow while the greatest is the best."""
MOST_WEIGHT = 10.0
FOLDS = 5
CLEAR_ERRORS = 1.64
"""Gain over no push, in standard errors over entities, from which on it is believed: a one-sided level of 5%."""


def search_push(
    scores: Sequence[Tensor],
    pushes: Sequence[Tensor],
    counts: Sequence[Tensor],
    batches: Sequence[TaskBatch],
    held_out: Tensor,
) -> Gate:
    """Gate with the best mean nDCG@10 over the batches, one batch a support size.

    scores[i], pushes[i] [T, C] are the scores without dislikes and what a gate of 1 subtracts; counts[i] [T] the
    numbers of dislikes; held_out [N] the entities that nothing was trained on. Closed without a clear gain over all
    entities, and without one in the mean over those that are held out.
    """
    targets = [relevant_and_candidates(b, x.shape[1]) for b, x in zip(batches, scores, strict=True)]
    entity = torch.cat([b.entity for b in batches])

    def entity_values(gate: Gate) -> Tensor:
        """Mean nDCG [V] of each entity over its points, entities in ascending order."""
        parts = []
        for score, push, count, target in zip(scores, pushes, counts, targets, strict=True):
            parts.append(ndcg(score - growing_weight(gate, count)[:, None] * push, *target))
        value = torch.cat(parts).double()
        defined = ~value.isnan()
        total = torch.bincount(entity[defined], value[defined], int(entity.max()) + 1)
        count = torch.bincount(entity[defined], minlength=len(total))
        return (total / count)[entities]

    gates = [CLOSED_GATE, *itertools.product(WEIGHTS, HALVES)]
    entities = torch.nonzero(torch.bincount(entity)).flatten()
    values = [entity_values(gate) for gate in gates]
    while (best := _best(values)) and gates[best][0] == max(w for w, _ in gates) < MOST_WEIGHT:
        more = [(2 * gates[best][0], half) for half in HALVES]
        gates += more
        values += [entity_values(gate) for gate in more]
    gain = (values[best] - values[0])[torch.isin(entities, held_out)]
    is_confirmed = float(gain.nanmean()) > 0
    return gates[best] if is_confirmed and _is_clear(torch.stack(values)) else CLOSED_GATE


def _best(values: Sequence[Tensor]) -> int:
    return int(torch.stack([v.nanmean() for v in values]).argmax())


def _is_clear(values: Tensor) -> bool:
    """True if the cross-fitted gain of the gates, values [G, V], over the first one is above CLEAR_ERRORS."""
    values = values[:, ~values[0].isnan()]
    fold = torch.arange(values.shape[1]) % FOLDS
    if len(fold) < FOLDS:
        return False
    gains = torch.zeros(values.shape[1], dtype=values.dtype)
    for held_out in range(FOLDS):
        here = fold == held_out
        chosen = int(values[:, ~here].mean(1).argmax())
        gains[here] = values[chosen, here] - values[0, here]
    return float(gains.mean()) > CLEAR_ERRORS * float(gains.std() / len(gains) ** 0.5)
