"""Exploring among entities: Thompson sampling from adapted posteriors, with the propensity of what comes first."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from api.handlers.request_lifecycle import RequestContext
from api.inference.entity_context import EntityContext
from api.inference.state_resolver import StateResolution
from api.telemetry.adaptation_diagnostics import ANONYMOUS
from recsys_meta.core.types import Interactions
from recsys_meta.inference.ranking.thompson_sampling import propensity, thompson_draw
from recsys_meta.inference.recommender import Recommender
from recsys_meta.store.entities.explorations import NewExploration


@dataclass(frozen=True)
class ExplorationResult:
    """What entities are ordered by (None: the model failed for it), and how likely the first was to be first."""

    order: list[float | None]
    seed: int
    propensity: float

    @property
    def candidates(self) -> int:
        """Entities that could have come first."""
        return sum(value is not None for value in self.order)


async def explore(
    recommender: Recommender, outcomes: Sequence[StateResolution], rows: Interactions, seed: int | None
) -> ExplorationResult | None:
    """Draw a score for each entity; None where the model failed for all of them."""
    seed = secrets.randbits(53) if seed is None else seed
    # For 200 entities the integral takes some milliseconds, which others should not wait for.
    return await asyncio.to_thread(_explore, recommender, outcomes, rows, seed)


def _explore(
    recommender: Recommender, outcomes: Sequence[StateResolution], rows: Interactions, seed: int
) -> ExplorationResult | None:
    able = [i for i, outcome in enumerate(outcomes) if not outcome.model_failed]
    if not able:
        return None
    mean = torch.stack([outcomes[i].scores[0] for i in able])
    spread = torch.stack([_spread(recommender, outcomes[i], rows) for i in able]).nan_to_num(0.0)
    drawn = thompson_draw(mean, spread, seed)
    order: list[float | None] = [None] * len(outcomes)
    for i, value in zip(able, drawn.tolist(), strict=True):
        order[i] = value
    return ExplorationResult(order, seed, propensity(int(drawn.argmax()), mean, spread))


def _spread(recommender: Recommender, outcome: StateResolution, rows: Interactions) -> torch.Tensor:
    assert outcome.state is not None
    spread = recommender.score_std(outcome.state, rows)
    assert spread is not None  # the caller asks only models that know
    return spread[0, 0]


def exploration_row(
    call: RequestContext, first: EntityContext, item: str, explored: ExplorationResult
) -> NewExploration:
    """What the table of explorations is told: without it nobody could say later what the alternatives were worth."""
    return NewExploration(
        request_id=call.request_id,
        model=call.model.name,
        model_version=call.model.version,
        kind=first.kind,
        entity=first.entity or ANONYMOUS,
        item=item,
        candidates=explored.candidates,
        propensity=explored.propensity,
        seed=explored.seed,
        created=call.at,
    )
