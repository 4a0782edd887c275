"""Episodes of actors: the support is what a few actors of an entity did, the query what others did next.

    an actor's last ROWS rows    1 2 3 4 5 6 7 | 8 9 10
    of the pool: support         x x x x x x x |
    of the others: query                       | x x  x      history: its own rows before

Half of an entity's actors, by the seed, are the pool. Shots count actors. (The layout of CHAML, Chen et al. 2021,
with a pool in place of its fixed support; protocol C1 of docs/evaluation.md.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import IntArray, Interactions
from recsys_meta.episodes.event_index import BoolArray, EventIndex, prioritise, shuffle_within

ROWS, SHOWN = 10, 7
LEAST_ROWS, LEAST_ACTORS = 1000, 20
"""Rows and actors that an entity needs to take part."""
MOST_ACTORS = 500
"""Actors of an entity whose next steps are asked for."""


@dataclass(frozen=True)
class ActorIndex(EventIndex):
    """An index whose episodes are made of actors. `steps` [G, ROWS]: positions of the last rows of each actor of each
    entity, entity after entity, in an order fixed by the seed; first [E + 1]: where an entity's actors begin."""

    steps: Tensor = field(default_factory=lambda: torch.zeros(0, ROWS, dtype=torch.int64))
    first: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))

    @classmethod
    def of_rows(cls, index: EventIndex, seed: int) -> ActorIndex:
        """From an ordinary index whose rows have actors. Raises ConfigError where they have none."""
        if index.actor is None:
            raise ConfigError("episodes of actors need a data set whose rows name an actor (schema.actor)")
        key = index.entity * (int(index.actor.max()) + 1 if len(index.actor) else 1) + index.actor
        order = torch.argsort(key, stable=True)
        _, count = torch.unique_consecutive(key[order], return_counts=True)
        last = count.cumsum(0)[count >= ROWS] - 1
        steps = order[last[:, None] + torch.arange(1 - ROWS, 1, device=last.device)]
        entity = index.entity[steps[:, 0]]
        enough = (torch.bincount(entity, minlength=len(index.counts)) >= LEAST_ACTORS) & (index.counts >= LEAST_ROWS)
        steps, entity = steps[enough[entity]], entity[enough[entity]]
        chance = torch.rand(len(steps), generator=torch.Generator().manual_seed(seed)).to(entity.device)
        steps = steps[shuffle_within(entity, chance)]
        actors = torch.bincount(entity, minlength=len(index.counts))
        first = torch.cat([actors.new_zeros(1), actors.cumsum(0)])
        own = {k: getattr(index, k) for k in ("indptr", "item", "label", "context", "actor", "group")}
        return cls(**own, steps=steps, first=first)

    def to(self, device: torch.device | str) -> ActorIndex:
        """The same on another device."""
        here = super().to(device)
        own = {k: getattr(here, k) for k in ("indptr", "item", "label", "context", "actor", "group")}
        return ActorIndex(**own, steps=self.steps.to(device), first=self.first.to(device))

    def entities_with(self, rows: int) -> IntArray:
        """Entities with so many rows that can take part."""
        return torch.nonzero((self.first.diff() > 0) & (self.counts >= rows)).flatten().cpu().numpy()

    def has_support(self, entities: IntArray, shots: int, least: int, query_from: int = 0) -> BoolArray:
        """Which of the entities have so many actors in their pool."""
        actors = self.first.diff().cpu().numpy()[np.asarray(entities)]
        reached: BoolArray = (actors // 2 >= shots) & (actors > 0)
        return reached

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
        """Support of `shots` actors and query of others; with a generator any actor may be on either side.

        `max_query` bounds the query rows; actors with rows that `prefer` marks come first.
        """
        start, count = self.first[entities], self.first.diff()[entities]
        task = torch.repeat_interleave(torch.arange(len(entities), device=start.device), count)
        rank = torch.arange(len(task), device=start.device) - (count.cumsum(0) - count)[task]
        actor = start[task] + rank
        if generator is not None:
            chance = torch.rand(len(task), generator=generator, device=task.device, dtype=torch.float64)
            actor = actor[shuffle_within(task, chance)]
        pool = count // 2
        inside = rank < torch.minimum(shots.to(count.device), pool)[task]
        asked = rank >= pool[task]
        turn = rank - pool[task]
        if prefer is not None:
            turn = prioritise(task, turn, asked, prefer[self.steps[actor]].any(1))
        most = MOST_ACTORS if max_query is None else max(1, max_query // (ROWS - SHOWN))
        asked = asked & (turn < most)
        support = self._steps(len(entities), task[inside], rank[inside], self.steps[actor[inside]], 0, SHOWN)
        query = self._steps(len(entities), task[asked], turn[asked], self.steps[actor[asked]], SHOWN, ROWS)
        return support, query

    def _steps(self, tasks: int, task: Tensor, turn: Tensor, steps: Tensor, low: int, high: int) -> Interactions:
        """Rows low to high of each actor, with what it did before them as their history."""
        width = high - low
        column = (turn[:, None] * width + torch.arange(width, device=turn.device)).flatten()
        place = torch.arange(low, high, device=turn.device)[:, None] - torch.arange(1, ROWS, device=turn.device)
        past = torch.where(place >= 0, steps[:, place.clamp(min=0)], -1)
        return self.rows(
            tasks,
            task[:, None].expand(-1, width).flatten(),
            column,
            steps[:, low:high].flatten(),
            past.reshape(-1, ROWS - 1),
        )
