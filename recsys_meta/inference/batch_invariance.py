"""Ranking that gives an entity the same scores, to the last bit, whichever entities are ranked with it.

A matrix product of one row, or of two, runs another program of the library than one of many, with other last bits. The
flagship's products are made row by row (`functional.linear_algebra.batch_invariant_product`). Where a predictor has
other products the whole batch is filled up to `MIN_BATCH` entities. Whether that is enough is tried out: how a product
is computed is the library's and the processor's choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recsys_meta.core.types import State
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest, Interaction

MIN_BATCH = 4
"""Entities that are ranked at once, at least, where one alone has other last bits; fewer are repeated."""

_TRIALS = 16
_TRIAL_EVENTS = 5

Rank = Callable[[State], Tensor]
"""Scores [T, C] of T states."""

RankEntities = Callable[[State, Sequence[EncodedEntity]], Tensor]
"""Scores [T, C] of the states of T entities."""


def rank_in_batch_of(least: int, rank: Rank, state: State) -> Tensor:
    """Rank T states in a batch of at least so many; return their scores [T, C]."""
    tasks = next(iter(state.values())).shape[0]
    if tasks >= least:
        return rank(state)
    # Concatenated, not indexed: for one entity that takes a quarter of the time.
    batch = {name: torch.cat([leaf] * math.ceil(least / tasks)) for name, leaf in state.items()}
    return rank(batch)[:tasks]


def trial_requests(names: Sequence[str]) -> list[EntityRequest]:
    """Make entities with some of the model's first items, to try batches out with."""
    first = list(names[:_TRIALS])
    rotations = [first[i:] + first[:i] for i in range(len(first))]
    return [EntityRequest(events=[Interaction(name) for name in some[:_TRIAL_EVENTS]]) for some in rotations]


def least_batch(
    adapt: Callable[[Sequence[EncodedEntity]], State], rank: RankEntities, entities: Sequence[EncodedEntity]
) -> int:
    """Return 1, or `MIN_BATCH`, where entities that are adapted and ranked in batches of that size and somewhat more
    get the states and the scores of a batch of all. 0 where they do not, and for too few entities to tell."""
    whole = adapt(entities)
    scores = rank(whole, entities)

    def is_equal(part: slice) -> bool:
        state = adapt(entities[part])
        same_state = all(torch.equal(leaf, whole[name][part]) for name, leaf in state.items())
        return same_state and torch.equal(rank(state, entities[part]), scores[part])

    for least in (1, MIN_BATCH):
        parts = [slice(i, i + least + i % 3) for i in range(len(entities) - least)]
        if parts and all(is_equal(part) for part in parts):
            return least
    return 0
