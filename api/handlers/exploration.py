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
from recsys_meta.inference.ranking.fresh_slots import FreshDraw
from recsys_meta.inference.ranking.thompson_sampling import propensity, thompson_draw
from recsys_meta.inference.recommender import Recommender
from recsys_meta.store.entities.explorations import NewExploration


@dataclass(frozen=True)
class ExplorationResult:
    """A draw among entities: the scores that order them (None: the model failed for it), its seed, and the propensity
    of the first one: the probability with which it came first."""

    order: list[float | None]
    seed: int
    propensity: float

    @property
    def candidates(self) -> int:
        """Number of entities that could have come first."""
        return sum(value is not None for value in self.order)


async def explore(
    recommender: Recommender, resolutions: Sequence[StateResolution], rows: Interactions, seed: int | None
) -> ExplorationResult | None:
    """Draw a score for each entity from its posterior of rows [1, 1]; None where the model failed for all. Without
    a seed one is drawn."""
    seed = secrets.randbits(53) if seed is None else seed
    # For 200 entities the integral takes some milliseconds, too long for the event loop.
    return await asyncio.to_thread(_explore, recommender, resolutions, rows, seed)


def _explore(
    recommender: Recommender, resolutions: Sequence[StateResolution], rows: Interactions, seed: int
) -> ExplorationResult | None:
    answering = [i for i, resolution in enumerate(resolutions) if not resolution.model_failed]
    if not answering:
        return None
    mean = torch.stack([resolutions[i].scores[0] for i in answering])
    spread = torch.stack([_spread(recommender, resolutions[i], rows) for i in answering]).nan_to_num(0.0)
    draws = thompson_draw(mean, spread, seed)
    order: list[float | None] = [None] * len(resolutions)
    for i, value in zip(answering, draws.tolist(), strict=True):
        order[i] = value
    return ExplorationResult(order, seed, propensity(int(draws.argmax()), mean, spread))


def _spread(recommender: Recommender, resolution: StateResolution, rows: Interactions) -> torch.Tensor:
    assert resolution.state is not None
    spread = recommender.score_std(resolution.state, rows)
    assert spread is not None  # only uncertain predictors are asked
    return spread[0, 0]


def exploration_row(call: RequestContext, first: EntityContext, item: str, result: ExplorationResult) -> NewExploration:
    """The row of the table `explorations`: without it off-policy evaluation has no propensities."""
    return NewExploration(
        request_id=call.request_id,
        model=call.model.name,
        model_version=call.model.version,
        kind=first.kind,
        entity=first.entity or ANONYMOUS,
        item=item,
        candidates=result.candidates,
        propensity=result.propensity,
        seed=result.seed,
        created=call.at,
    )


def fresh_rows(
    call: RequestContext, drawn: Sequence[FreshDraw], names: Sequence[str], seed: int
) -> list[NewExploration]:
    """Make the rows of the table `explorations` for what was drawn for the slots of a list."""
    return [
        NewExploration(
            request_id=call.request_id,
            model=call.model.name,
            model_version=call.model.version,
            kind=call.entity_context.kind,
            entity=call.entity_context.entity or ANONYMOUS,
            item=name,
            candidates=one.candidates,
            propensity=one.propensity,
            seed=seed,
            created=call.at,
        )
        for one, name in zip(drawn, names, strict=True)
    ]
