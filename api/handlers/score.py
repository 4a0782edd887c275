"""`POST /v1/score`: scores of rows for one entity, or a ranking of entities for one row."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
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
"""Half the width of a 95% interval, in standard deviations."""


async def score_rows(request: Request, container: AppContainer, body: ScoreRequest) -> Response:
    """Score rows for one entity."""
    call = await open_request(body.model, body.entity, request, container)
    entity = read_support(call.model, call.entity_context, body.entity, body.events)
    recommender = call.model.recommender
    clicks = recommender.bundle.schema.objective == "click"
    if not body.rows and not clicks and not _has_interval(recommender):
        return await _score_items(call, entity, body.items)
    raw_rows: list[tuple[str, RawFeatures]] = [(item, {}) for item in body.items] + [
        (row.item, row.context) for row in body.rows
    ]
    rows = recommender.queries.rows(entity, raw_rows)
    state_request = StateRequest(call.model, entity, call.entity_context, score=partial(_score_rows, rows))
    resolution = await container.resolver.resolve(state_request)
    ids = rows.item[0].tolist()
    # A plain item that the model lacks has no score; a row with a context has one, since clicks depend on that too.
    skips = [i < FIRST and (not clicks or index < len(body.items)) for index, i in enumerate(ids)]
    scores = [
        {"item": item, **({"score": None} if skip else score)}
        for (item, _), score, skip in zip(raw_rows, row_scores(recommender, resolution, rows), skips, strict=True)
    ]
    rest = _encode_scores(call, entity, _unknown_items((item for item, _ in raw_rows), ids), scores)
    return finish_resolved(call, entity, resolution, rest)


async def _score_items(call: RequestContext, entity: EncodedEntity, items: list[str]) -> Response:
    """Score plain items, from the scores of the whole catalogue, which may be computed in a batch."""
    resolution = await call.container.resolver.resolve(StateRequest(call.model, entity, call.entity_context))
    ids = call.model.recommender.catalog.item_ids(items, entity.catalog)
    values = resolution.scores[ids].tolist()
    scores = [
        {"item": item, "score": value if i >= FIRST else None}
        for item, value, i in zip(items, values, ids, strict=True)
    ]
    return finish_resolved(call, entity, resolution, _encode_scores(call, entity, _unknown_items(items, ids), scores))


async def rank_entities(request: Request, container: AppContainer, body: ScoreRequest) -> Response:
    """Rank entities for one row, best first, all by the same version of the model."""
    assert body.row is not None
    at, began = datetime.now(UTC), time.perf_counter()
    model = await container.registry.resolve(body.model, body.entity.kind)
    recommender = model.recommender
    inputs = [EntityInput(kind=model.kind, id=m.id, features=m.features) for m in body.entities]
    contexts = await asyncio.gather(*(find_entity_context(container.profiles, model, one) for one in inputs))
    entities = [
        read_support(model, context, one, member.events)
        for context, one, member in zip(contexts, inputs, body.entities, strict=True)
    ]
    if body.explore is not None and not isinstance(recommender.bundle.predictor, UncertainPredictor):
        raise ProblemError(422, "This model does not know how sure it is, so there is nothing to explore by")
    if recommender.bundle.schema.home is not None:
        raise ProblemError(422, "This model's entities have items of their own: they cannot be compared on one row")
    rows = recommender.queries.rows(entities[0], [(body.row.item, body.row.context)])
    requests = [
        StateRequest(model, entity, context, score=partial(_score_rows, rows))
        for entity, context in zip(entities, contexts, strict=True)
    ]
    resolutions = await container.resolver.resolve_all(requests)
    call = RequestContext(container, request_id(request), model, EntityContext(model.kind), at, began)
    exploration = None if body.explore is None else await explore(recommender, resolutions, rows, body.explore.seed)
    return _ranked_response(call, body, rows, requests, resolutions, exploration)


def _ranked_response(
    call: RequestContext,
    body: ScoreRequest,
    rows: Interactions,
    requests: list[StateRequest],
    resolutions: list[StateResolution],
    exploration: ExplorationResult | None,
) -> Response:
    assert body.row is not None
    recommender = call.model.recommender
    entities = [request.entity for request in requests]
    steps = [served_by(r.entity.support_size, resolution) for r, resolution in zip(requests, resolutions, strict=True)]
    unknown_items = _unknown_items([body.row.item], rows.item[0].tolist())
    members = _member_scores(recommender, body.entities, rows, bool(unknown_items), entities, resolutions, steps)
    order = [member["score"] for member in members] if exploration is None else exploration.order
    ranking = sorted(members, key=lambda m: (order[m["index"]] is None, -(order[m["index"]] or 0), m["index"]))
    if exploration is not None:
        first = requests[ranking[0]["index"]].entity_context
        call.container.writer.put(exploration_row(call, first, body.row.item, exploration))
    # The response as a whole came about as the costliest of its entities did.
    by = min(steps, key=("popular", "adapted", "cache", "prior").index)
    source = max((r.source for r in resolutions), key=("process", "redis", "miss").index)
    for state_request, resolution, step in zip(requests, resolutions, steps, strict=True):
        if step == "adapted":
            entity = state_request.entity
            record_adaptation(call, state_request.entity_context, step, entity.support_size, entity, resolution)
    call.container.metrics.responses.labels(call.model.name, by, source).inc()
    known = all(request.entity_context.is_known for request in requests)
    missing = call.container.degraded_dependencies(profile=known, model=by != "popular")
    rest = {
        "support_size": sum(entity.support_size for entity in entities),
        "unknown_items": sorted(unknown_items.union(i for entity in entities for i in entity.unknown_items)),
        "unknown_features": sorted({f for e in entities for f in recommender.encoder.unknown_features(e.features)}),
        "objective": recommender.bundle.schema.objective,
        "entities": [{"rank": rank, **member} for rank, member in enumerate(ranking, 1)],
    }
    if exploration is not None:
        rest["explored"] = {"seed": exploration.seed, "propensity": exploration.propensity}
    elif body.explore is not None:
        rest["explored"] = None
    return merge_response(call.request_id, call.model, by, missing, orjson.dumps(rest), source)


def _member_scores(
    recommender: Recommender,
    members: Sequence[CandidateEntity],
    rows: Interactions,
    unknown_item: bool,
    entities: Sequence[EncodedEntity],
    resolutions: Sequence[StateResolution],
    steps: Sequence[str],
) -> list[dict[str, Any]]:
    """The entities of a response with their scores, in the order of the request."""
    clicks = recommender.bundle.schema.objective == "click"
    # Without the item rankings and ratings have nothing to tell the entities apart by; clicks have the context.
    skip = unknown_item and not clicks
    scores = [{"score": None} if skip else row_scores(recommender, r, rows)[0] for r in resolutions]
    return [
        {"index": index, "id": member.id, "support_size": entity.support_size, "served_by": step, **score}
        for index, (member, entity, step, score) in enumerate(zip(members, entities, steps, scores, strict=True))
    ]


def _unknown_items(items: Iterable[str], ids: Iterable[int]) -> set[str]:
    """Raw items whose id says that the model does not have them."""
    return {item for item, i in zip(items, ids, strict=True) if i < FIRST}


def row_scores(recommender: Recommender, resolution: StateResolution, rows: Interactions) -> list[dict[str, Any]]:
    """Scores of rows [1, R], for clicks with probabilities, and for clicks and ratings with intervals; None where the
    model failed."""
    if (state := resolution.state) is None:
        return [{"score": None}] * rows.item.shape[1]
    values = resolution.scores
    scores: list[dict[str, Any]] = [{"score": s} for s in values.tolist()]
    columns: dict[str, torch.Tensor] = {}
    clicks = recommender.bundle.schema.objective == "click"
    if clicks:
        columns["probability"] = values.sigmoid()
    if _has_interval(recommender) and (std := recommender.score_std(state, rows)) is not None:
        ends = {"low": values - WIDTH * std[0], "high": values + WIDTH * std[0]}
        columns |= {name: end.sigmoid() if clicks else end for name, end in ends.items()}
    lists = {name: column.tolist() for name, column in columns.items()}
    return [
        {**score, **{n: v[i] if math.isfinite(v[i]) else None for n, v in lists.items()}}
        for i, score in enumerate(scores)
    ]


def _has_interval(recommender: Recommender) -> bool:
    """True where scores are answered with an interval: clicks and ratings of a model that knows how sure it is."""
    return recommender.is_uncertain and recommender.bundle.schema.objective in ("click", "rating")


def _score_rows(rows: Interactions, recommender: Recommender, state: State) -> torch.Tensor:
    return recommender.score_rows(state, rows)[0]


def _encode_scores(
    call: RequestContext, entity: EncodedEntity, unknown_items: set[str], scores: list[dict[str, Any]]
) -> bytes:
    return orjson.dumps(
        {
            "support_size": entity.support_size,
            "unknown_items": sorted(unknown_items.union(entity.unknown_items)),
            "unknown_features": call.model.recommender.encoder.unknown_features(entity.features),
            "objective": call.model.recommender.bundle.schema.objective,
            "scores": scores,
        }
    )
