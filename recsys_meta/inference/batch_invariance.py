"""Ranking that gives an entity the same scores, to the last bit, whichever entities are ranked with it.

A matrix product of one row, or of two, runs another program of the library than one of many, with other last bits. So
a batch is filled up to `MIN_BATCH` entities, and whether that is enough is tried out: how a product is computed is the
library's and the processor's choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recsys_meta.core.types import State
from recsys_meta.inference.requests.entity import EntityRequest, Interaction

MIN_BATCH = 4
"""Entities that are ranked at once, at least; fewer are repeated."""

_TRIALS = 16
_TRIAL_EVENTS = 5

Rank = Callable[[State], Tensor]
"""Scores [T, C] of T states."""


def rank_in_min_batch(rank: Rank, state: State) -> Tensor:
    """Rank T states in a batch of at least `MIN_BATCH`; return their scores [T, C]."""
    tasks = len(next(iter(state.values())))
    if tasks >= MIN_BATCH:
        return rank(state)
    # Concatenated, not indexed: for one entity that takes a quarter of the time.
    batch = {name: torch.cat([leaf] * math.ceil(MIN_BATCH / tasks)) for name, leaf in state.items()}
    return rank(batch)[:tasks]


def trial_requests(names: Sequence[str]) -> list[EntityRequest]:
    """Make entities with some of the model's first items, to try batches out with."""
    first = list(names[:_TRIALS])
    rotations = [first[i:] + first[:i] for i in range(len(first))]
    return [EntityRequest(events=[Interaction(name) for name in some[:_TRIAL_EVENTS]]) for some in rotations]


def is_batch_invariant(rank: Rank, states: State) -> bool:
    """Return True where slices of states, of `MIN_BATCH` entities and somewhat more, get the scores that the whole
    batch gives them. False for too few states to tell."""
    tasks = len(next(iter(states.values())))
    whole = rank(states)
    parts = [slice(i, i + MIN_BATCH + i % 3) for i in range(tasks - MIN_BATCH)]
    return bool(parts) and all(
        torch.equal(rank({name: leaf[part] for name, leaf in states.items()}), whole[part]) for part in parts
    )
