"""Actor episodes: the support holds rows of a few actors of an entity, the query the next rows of its other actors.

    last ROWS_PER_ACTOR rows of an actor    1 2 3 4 5 6 7 | 8 9 10
    support: actors of the pool             x x x x x x x |
    query: the other actors                               | x x  x      history: the actor's earlier rows

Half of an entity's actors, chosen by the seed, form the pool. Shots count actors. The layout is that of CHAML (Chen et
al. 2021) with a pool in place of its fixed support; protocol C1 of docs/evaluation.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import IntArray, Interactions
from recsys_meta.episodes.event_index import BoolArray, EventIndex, prioritise, shuffle_within

ROWS_PER_ACTOR, SUPPORT_ROWS = 10, 7
MIN_ROWS, MIN_ACTORS = 1000, 20
"""Fewest rows and fewest actors of an entity with episodes."""
MAX_QUERY_ACTORS = 500
"""Most actors of an entity in a query."""


@dataclass(frozen=True)
class ActorIndex(EventIndex):
    """Event index whose episodes consist of actors.

    steps [G, ROWS_PER_ACTOR] int64: positions of the last rows of each of G actors, entity after entity, the actors of
    an entity in an order fixed by the seed; actor_indptr [E + 1] int64: first row of `steps` of each entity.
    """

    steps: Tensor = field(default_factory=lambda: torch.zeros(0, ROWS_PER_ACTOR, dtype=torch.int64))
    actor_indptr: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))

    @classmethod
    def of_rows(cls, index: EventIndex, seed: int) -> ActorIndex:
        """Build from an index whose rows name an actor; the seed orders the actors of each entity.

        Actors with fewer than ROWS_PER_ACTOR rows, and entities with fewer than MIN_ROWS rows or MIN_ACTORS such
        actors, have no episodes. Raises ConfigError if the rows name no actor.
        """
        if index.actor is None:
            raise ConfigError("episodes of actors need a data set whose rows name an actor (schema.actor)")
        key = index.entity * (int(index.actor.max()) + 1 if len(index.actor) else 1) + index.actor
        order = torch.argsort(key, stable=True)
        _, count = torch.unique_consecutive(key[order], return_counts=True)
        last = count.cumsum(0)[count >= ROWS_PER_ACTOR] - 1
        steps = order[last[:, None] + torch.arange(1 - ROWS_PER_ACTOR, 1, device=last.device)]
        entity = index.entity[steps[:, 0]]
        enough = (torch.bincount(entity, minlength=len(index.counts)) >= MIN_ACTORS) & (index.counts >= MIN_ROWS)
        steps, entity = steps[enough[entity]], entity[enough[entity]]
        sort_key = torch.rand(len(steps), generator=torch.Generator().manual_seed(seed)).to(entity.device)
        steps = steps[shuffle_within(entity, sort_key)]
        actors = torch.bincount(entity, minlength=len(index.counts))
        actor_indptr = torch.cat([actors.new_zeros(1), actors.cumsum(0)])
        columns = {column.name: getattr(index, column.name) for column in fields(EventIndex)}
        return cls(**columns, steps=steps, actor_indptr=actor_indptr)

    def to(self, device: torch.device | str) -> Self:
        """Move all tensors to a device."""
        if torch.device(device) == self.indptr.device:
            return self
        return replace(super().to(device), steps=self.steps.to(device), actor_indptr=self.actor_indptr.to(device))

    def shuffled(self, seed: int) -> Self:
        """Return the index itself: the seed has ordered the actors, and the rows of an actor are a sequence."""
        return self

    def entities_with(self, rows: int) -> IntArray:
        """Entities with episodes and at least `rows` rows, [n] int64."""
        return torch.nonzero((self.actor_indptr.diff() > 0) & (self.counts >= rows)).flatten().cpu().numpy()

    def has_support(self, entities: IntArray, shots: int, least: int, query_from: int = 0) -> BoolArray:
        """Mark the entities [n] whose pool holds at least `shots` actors; `least` and `query_from` do not apply."""
        actors = self.actor_indptr.diff().cpu().numpy()[np.asarray(entities)]
        enough: BoolArray = (actors // 2 >= shots) & (actors > 0)
        return enough

    def draw(
        self,
        entities: Tensor,
        shots: Tensor,
        *,
        generator: torch.Generator | None = None,
        max_query: int | None = None,
        query_from: int = 0,
        prefer: Tensor | None = None,
        window: bool = False,
    ) -> tuple[Interactions, Interactions]:
        """Draw a support of `shots` [T] pool actors and a query of the other actors, [T, S] and [T, Q].

        With a generator the actors are shuffled first, so that any of them may be on either side. `max_query` bounds
        the query rows; actors with a row that `prefer` [N] marks come first. `query_from` and `window` do not apply.
        """
        start, count = self.actor_indptr[entities], self.actor_indptr.diff()[entities]
        task = torch.repeat_interleave(torch.arange(len(entities), device=start.device), count)
        rank = torch.arange(len(task), device=start.device) - (count.cumsum(0) - count)[task]
        actor = start[task] + rank
        if generator is not None:
            sort_key = torch.rand(len(task), generator=generator, device=task.device, dtype=torch.float64)
            actor = actor[shuffle_within(task, sort_key)]
        pool = count // 2
        is_support = rank < torch.minimum(shots.to(count.device), pool)[task]
        is_query = rank >= pool[task]
        query_rank = rank - pool[task]
        if prefer is not None:
            query_rank = prioritise(task, query_rank, is_query, prefer[self.steps[actor]].any(1))
        max_actors = MAX_QUERY_ACTORS if max_query is None else max(1, max_query // (ROWS_PER_ACTOR - SUPPORT_ROWS))
        is_query = is_query & (query_rank < max_actors)
        support = self._actor_rows(
            len(entities), task[is_support], rank[is_support], self.steps[actor[is_support]], 0, SUPPORT_ROWS
        )
        query = self._actor_rows(
            len(entities),
            task[is_query],
            query_rank[is_query],
            self.steps[actor[is_query]],
            SUPPORT_ROWS,
            ROWS_PER_ACTOR,
        )
        return support, query

    def _actor_rows(self, tasks: int, task: Tensor, rank: Tensor, steps: Tensor, low: int, high: int) -> Interactions:
        """Rows `low` to `high` of each actor, [T, S], with the actor's rows before each of them as its history."""
        width = high - low
        column = (rank[:, None] * width + torch.arange(width, device=rank.device)).flatten()
        offset = torch.arange(low, high, device=rank.device)[:, None] - torch.arange(
            1, ROWS_PER_ACTOR, device=rank.device
        )
        history = torch.where(offset >= 0, steps[:, offset.clamp(min=0)], -1)
        return self.rows(
            tasks,
            task[:, None].expand(-1, width).flatten(),
            column,
            steps[:, low:high].flatten(),
            history.reshape(-1, ROWS_PER_ACTOR - 1),
        )
