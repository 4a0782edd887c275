"""`POST /v1/score`: rows for a newcomer, or newcomers for a row."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import torch
from fastapi import Request, Response

from api.container import AppContainer
from api.handlers.dependencies import request_id
from api.handlers.exploration import ExplorationResult, exploration_row, explore
from api.handlers.request_lifecycle import RequestContext, finish_resolved, open_request, record_adaptation, served_by
from api.handlers.response_encoding import merge_response
from api.http.problem_details import ProblemError
from api.inference.entity_context import EntityContext, find_entity_context, read_support
from api.inference.state_resolver import StateRequest, StateResolution
from recsys_meta.core.types import FIRST, Interactions, State
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, RawFeatures
from recsys_meta.models.protocols import UncertainPredictor
from recsys_meta.wire.requests import CandidateEntity, EntityInput, ScoreRequest

WIDTH = 1.96
"""Standard deviations on each side of a 95% interval."""


async def score_rows(request: Request, container: AppContainer, body: ScoreRequest) -> Response:
    """Rows for one newcomer."""
    call = await open_request(body.model, body.entity, request, container)
    known = read_support(call.model, call.entity_context, body.entity, body.events)
    recommender = call.model.recommender
    clicks = recommender.bundle.schema.objective == "click"
    if not body.rows and not clicks:
        return await _score_items(call, known, body.items)
    asked: list[tuple[str, RawFeatures]] = [(item, {}) for item in body.items] + [
        (row.item, row.context) for row in body.rows
    ]
    rows = recommender.queries.rows(known, asked)
    outcome = await container.resolver.resolve(
        StateRequest(call.model, known, call.entity_context, score=partial(_score_rows, rows))
    )
    ids = rows.item[0].tolist()
    found = row_scores(recommender, outcome, rows, clicks)
    # An item that the model lacks is a question about nothing, but for the context that clicks come with.
    blank = [i < FIRST and (not clicks or place < len(body.items)) for place, i in enumerate(ids)]
    nothing = {"score": None}
    scores = [
        {"item": item, **(nothing if empty else one)} for (item, _), one, empty in zip(asked, found, blank, strict=True)
    ]
    return finish_resolved(
        call, known, outcome, _packed(call, known, _lacking((i for i, _ in asked), ids), {"scores": scores})
    )


async def _score_items(call: RequestContext, known: EncodedEntity, items: list[str]) -> Response:
    """Plain items, out of the scores of the whole catalogue."""
    outcome = await call.container.resolver.resolve(StateRequest(call.model, known, call.entity_context))
    recommender = call.model.recommender
    places = recommender.catalog.item_ids(items, known.own)
    values = outcome.scores[places].tolist()
    scores = [
        {"item": item, "score": value if place >= FIRST else None}
        for item, value, place in zip(items, values, places, strict=True)
    ]
    return finish_resolved(call, known, outcome, _packed(call, known, _lacking(items, places), {"scores": scores}))


async def rank_entities(request: Request, container: AppContainer, body: ScoreRequest) -> Response:
    """Newcomers for one row, best first; all meet the same model."""
    assert body.row is not None
    at, began = datetime.now(UTC), time.perf_counter()
    model = await container.registry.resolve(body.model, body.entity.kind)
    who = [EntityInput(kind=model.kind, id=m.id, features=m.features) for m in body.entities]
    entity_contexts = await asyncio.gather(*(find_entity_context(container.profiles, model, one) for one in who))
    known = [
        read_support(model, s, one, m.events) for s, one, m in zip(entity_contexts, who, body.entities, strict=True)
    ]
    recommender = model.recommender
    if body.explore is not None and not isinstance(recommender.bundle.predictor, UncertainPredictor):
        raise ProblemError(422, "This model does not know how sure it is, so there is nothing to explore by")
    if recommender.bundle.schema.home is not None:
        raise ProblemError(422, "This model's entities have items of their own: they cannot be compared on one row")
    rows = recommender.queries.rows(known[0], [(body.row.item, body.row.context)])
    pairs = list(zip(known, entity_contexts, strict=True))
    requests = [StateRequest(model, entity, context, score=partial(_score_rows, rows)) for entity, context in pairs]
    outcomes = await container.resolver.resolve_all(requests)
    call = RequestContext(container, request_id(request), model, EntityContext(model.kind), at, began)
    found = None if body.explore is None else await explore(recommender, outcomes, rows, body.explore.seed)
    return _ranked(call, body, rows, pairs, outcomes, found)


def _ranked(
    call: RequestContext,
    body: ScoreRequest,
    rows: Interactions,
    pairs: list[tuple[EncodedEntity, EntityContext]],
    outcomes: list[StateResolution],
    explored: ExplorationResult | None,
) -> Response:
    recommender, members = call.model.recommender, body.entities
    clicks = recommender.bundle.schema.objective == "click"
    ways = [served_by(len(known.items), outcome) for (known, _), outcome in zip(pairs, outcomes, strict=True)]
    assert body.row is not None
    strange = _lacking([body.row.item], rows.item[0].tolist())
    # Without the item rankings and ratings have nothing to tell the newcomers apart by; clicks have the context.
    nothing = bool(strange) and not clicks
    found = [
        _member(i, member, pairs[i][0], ways[i])
        | ({"score": None} if nothing else row_scores(recommender, outcomes[i], rows, clicks)[0])
        for i, member in enumerate(members)
    ]
    order = [one["score"] for one in found] if explored is None else explored.order
    best = sorted(found, key=lambda one: (order[one["index"]] is None, -(order[one["index"]] or 0), one["index"]))
    if explored is not None:
        call.container.writer.put(exploration_row(call, pairs[best[0]["index"]][1], body.row.item, explored))
    # What was hardest to come by says how the whole came about.
    by = min(ways, key=("popular", "adapted", "cache", "prior").index)
    source = max((o.source for o in outcomes), key=("process", "redis", "miss").index)
    for (known, entity_context), outcome, way in zip(pairs, outcomes, ways, strict=True):
        if way == "adapted":
            record_adaptation(call, entity_context, way, len(known.items), known, outcome)
    call.container.metrics.responses.labels(call.model.name, by, source).inc()
    profile = all(s.entity is None or s.profile is not None for _, s in pairs)
    missing = call.container.degraded_dependencies(profile=profile, model=by != "popular")
    lacking = sorted(strange.union(i for known, _ in pairs for i in known.unknown))
    rest = {
        "support_size": sum(len(known.items) for known, _ in pairs),
        "unknown_items": lacking,
        "unknown_features": sorted({f for known, _ in pairs for f in recommender.encoder.unknown(known.features)}),
        "objective": recommender.bundle.schema.objective,
        "entities": [{"rank": rank, **one} for rank, one in enumerate(best, 1)],
    }
    if explored is not None:
        rest["explored"] = {"seed": explored.seed, "propensity": explored.propensity}
    elif body.explore is not None:
        rest["explored"] = None
    return merge_response(call.request_id, call.model, by, missing, orjson.dumps(rest), source)


def _member(index: int, member: CandidateEntity, known: EncodedEntity, by: str) -> dict[str, Any]:
    return {"index": index, "id": member.id, "support_size": len(known.items), "served_by": by}


def _lacking(items: Iterable[str], ids: Iterable[int]) -> set[str]:
    """Those of some raw items that the model does not have."""
    return {item for item, i in zip(items, ids, strict=True) if i < FIRST}


def row_scores(
    recommender: Recommender, outcome: StateResolution, rows: Interactions, clicks: bool
) -> list[dict[str, Any]]:
    """Scores of rows and, of clicks, probabilities with their intervals; None where the model failed."""
    if (state := outcome.state) is None:
        return [{"score": None}] * rows.item.shape[1]
    scores = outcome.scores
    found: list[dict[str, Any]] = [{"score": s} for s in scores.tolist()]
    if not clicks:
        return found
    columns = {"probability": scores.sigmoid()}
    if (spread := recommender.score_std(state, rows)) is not None:
        columns |= {"low": (scores - WIDTH * spread[0]).sigmoid(), "high": (scores + WIDTH * spread[0]).sigmoid()}
    named = {name: values.tolist() for name, values in columns.items()}
    return [
        {**one, **{n: v[i] if math.isfinite(v[i]) else None for n, v in named.items()}} for i, one in enumerate(found)
    ]


def _score_rows(rows: Interactions, recommender: Recommender, state: State) -> torch.Tensor:
    return recommender.score_rows(state, rows)[0]


def _packed(call: RequestContext, known: EncodedEntity, lacking: set[str], rest: dict[str, Any]) -> bytes:
    return orjson.dumps(
        {
            "support_size": len(known.items),
            "unknown_items": sorted(lacking.union(known.unknown)),
            "unknown_features": call.model.recommender.encoder.unknown(known.features),
            "objective": call.model.recommender.bundle.schema.objective,
            **rest,
        }
    )
