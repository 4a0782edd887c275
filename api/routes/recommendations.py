"""`POST /v1/recommendations` and `POST /v1/score`: the hot path."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import orjson
import torch
from fastapi import APIRouter, Request, Response
from torch import Tensor

from api.handlers.dependencies import authorize_and_parse, request_schema
from api.handlers.exploration import fresh_rows
from api.handlers.list_request import to_list_request
from api.handlers.request_lifecycle import (
    RequestContext,
    finish,
    finish_resolved,
    open_request,
    record_impression,
    served_by,
)
from api.handlers.response_encoding import encode_items, pack, unpack
from api.handlers.score import rank_entities, score_rows
from api.http.problem_details import ProblemError
from api.inference.cache_writer import MEMORY_TTL_S
from api.inference.entity_context import read_support
from api.inference.long_tasks import WorkerBusy
from api.inference.micro_batcher import BatchResult
from api.inference.state_resolver import SharedState, Source, StateRequest, StateResolution, list_expired
from recsys_meta.core.types import FIRST, State
from recsys_meta.inference.insight.explanations import ItemExplanation, explain_items
from recsys_meta.inference.ranking.fresh_slots import FreshDraw, FreshPolicy
from recsys_meta.inference.ranking.item_catalog import ScoredItem
from recsys_meta.inference.ranking.list_builder import ItemList, ListRequest, shortfall
from recsys_meta.inference.ranking.list_cursor import (
    CursorMismatch,
    ListCursor,
    ListPosition,
    ListScope,
    read_cursor,
    write_cursor,
)
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity
from recsys_meta.inference.requests.query_context import EncodedQuery
from recsys_meta.store.cache.keys import list_key
from recsys_meta.store.entities.adaptations import ServedBy
from recsys_meta.wire.requests import RecommendationRequest, ScoreRequest
from recsys_meta.wire.responses import EntityRankingResponse, RecommendationResponse, ScoreResponse

_EXPLANATION_WAIT_S = 1.0  # how long a list waits for its turn to be explained, seconds

router = APIRouter(prefix="/v1", tags=["newcomers"])


@router.post(
    "/recommendations",
    responses={200: {"model": RecommendationResponse}},
    openapi_extra=request_schema(RecommendationRequest),
)
async def recommend(request: Request) -> Response:
    """The n best items for a newcomer, adapted to its first interactions.

    Exactly n items come back unless fewer exist; `shortfall` then says what left no other. `served_by` says how:
    `adapted`, `cache` (the adapted state was at hand), `prior` (nothing is known but features) or `popular` (the model
    failed). The header `x-cache` says where the state was found: `process`, `redis` or `miss`. `next`, sent back as
    `cursor` with the same request, gives the items that follow, whose ranks go on. 409: the events have changed since
    and nobody holds that list any more.
    """
    container, body, raw = await authorize_and_parse(request, "read", RecommendationRequest)
    cursor = _read_cursor(body.cursor, container.profiles.cursor_key.value) if body.cursor else None
    call = await open_request(body.model, body.entity, request, container, cursor.version if cursor else None)
    default = None if "fresh" in body.model_fields_set else _default_policy(call, cursor)
    key = None if body.fresh or default else _list_key(call, raw)
    if key is not None and (content := container.resolver.held_list(key)) is not None:
        return _cached_response(call, content, "process")
    page = _open_page(call, body, cursor, default)
    state_request, shared_state = _state_request(page), None
    if key is not None and state_request is not None:
        shared_list, shared_state = await container.resolver.shared_list(key, state_request)
        if shared_list is not None:
            return _cached_response(call, shared_list, "redis")
    if cursor is not None:
        await _check_cursor(page, cursor, (body.model or "").partition("@")[2])
    resolution = await _resolve(page, state_request, shared_state)
    (items, unknown_items, end), draws = await _build_list(page, resolution)
    explanations = await _explain(page, items, resolution) if body.explain else ()
    size = page.entity.support_size if cursor is None else cursor.size
    fresh = {} if page.request.fresh is None else _log_fresh(page, draws, resolution.model_failed)
    rest = orjson.dumps(
        {
            **fresh,
            "support_size": size,
            "unknown_items": unknown_items,
            "unknown_features": call.model.recommender.encoder.unknown_features(page.entity.features),
            "unknown_filter_values": call.model.recommender.lists.unknown_filter_values(page.request.filters),
            "shortfall": shortfall(page.request, len(items), page.entity, page.query),
            "items": encode_items(items, explanations, page.rank),
            "next": None
            if end is None or resolution.model_failed or fresh
            else _next_cursor(page, end, page.rank + len(items)),
        }
    )
    if key is not None and not resolution.model_failed and (explanations or not body.explain):
        content = pack(not size, size, rest)
        if resolution.source == "miss":  # few ask twice, and who does elsewhere finds the state in Redis
            container.memory.set(key, content, MEMORY_TTL_S, call.entity_context.owner)
        else:
            container.cache_writer.put(key, content, call.entity_context, MEMORY_TTL_S)
    record_impression(call, served_by(size, resolution), size, rest)
    return finish_resolved(call, page.entity, resolution, rest, size)


@router.post(
    "/score",
    responses={200: {"model": ScoreResponse | EntityRankingResponse}},
    openapi_extra=request_schema(ScoreRequest),
)
async def score(request: Request) -> Response:
    """Scores of given items or rows for a newcomer: logits for rankings and clicks, label units for ratings.

    For clicks also probabilities; for clicks and ratings a 95% interval where the model knows how sure it is. With
    `entities` and a `row` it is the other way round: the entities ranked for that row.
    """
    container, body, _ = await authorize_and_parse(request, "read", ScoreRequest)
    return await (rank_entities if body.entities else score_rows)(request, container, body)


class _PageRequest(NamedTuple):
    """A page of a list: the request for the list, the entity and the context it is for, and the cursor that the page
    begins behind, None for the first page."""

    call: RequestContext
    request: ListRequest
    entity: EncodedEntity
    query: EncodedQuery | None
    cursor: ListCursor | None

    @property
    def scope(self) -> ListScope:
        """The list that its cursors belong to."""
        return ListScope(self.call.model.version, self.call.entity_context.owner or "", self.request.context)

    @property
    def rank(self) -> int:
        """The rank of the item that the page begins behind, 0 for the first page."""
        return 0 if self.cursor is None else self.cursor.rank

    @property
    def is_current(self) -> bool:
        """False where the page is of a list that was made from older events."""
        return self.cursor is None or self.cursor.is_current(self.entity)


def _default_policy(call: RequestContext, cursor: ListCursor | None) -> FreshPolicy | None:
    """Places for new items that the installation gives the model: none where there are no new ones, nor on a further
    page. What is drawn for them is drawn anew for each list."""
    policy = call.container.fresh.get(call.model.name)
    if policy is None or cursor is not None or call.model.recommender.new_items is None:
        return None
    return replace(policy, seed=secrets.randbits(53))


def _open_page(
    call: RequestContext, body: RecommendationRequest, cursor: ListCursor | None, default: FreshPolicy | None
) -> _PageRequest:
    """Read the entity and the list that a body asks for. Raises DataError for what the model cannot read."""
    request = to_list_request(body, default)
    entity = read_support(call.model, call.entity_context, body.entity, body.events)
    entity, query = call.model.recommender.lists.encode_query(entity, request)
    return _PageRequest(call, request, entity, query, cursor)


def _read_cursor(cursor: str, secret: bytes) -> ListCursor:
    """Read the cursor of a request. Raises ProblemError for one that this deployment did not write."""
    try:
        return read_cursor(cursor, secret)
    except ValueError as error:
        raise ProblemError(422, str(error)) from None


async def _check_cursor(page: _PageRequest, cursor: ListCursor, pinned_version: str) -> None:
    """Raise ProblemError for a cursor of another list, or of a list that can no longer be made."""
    try:
        page.scope.check(cursor, pinned_version)
    except CursorMismatch as error:
        raise ProblemError(422, str(error)) from None
    if not cursor.can_continue(page.entity) or (not page.is_current and await _is_erased(page.call)):
        raise list_expired()


async def _is_erased(call: RequestContext) -> bool:
    """Return True where the events of an older page may have been erased, while this process still holds its state."""
    kind, entity = call.entity_context.kind, call.entity_context.entity
    return entity is not None and await call.container.profiles.was_erased(kind, entity, 2 * MEMORY_TTL_S)


def _list_key(call: RequestContext, body: bytes) -> str | None:
    """Make the key of a list in the caches; None where an equal request may get another answer."""
    entity_context, model = call.entity_context, call.model
    if entity_context.mark is None:
        return None
    return list_key(model.name, model.mark, entity_context.kind, entity_context.entity or "", entity_context.mark, body)


def _cached_response(call: RequestContext, content: bytes, source: Source) -> Response:
    """Respond with a list that was made before."""
    prior, size, rest = unpack(content)
    by: ServedBy = "prior" if prior else "cache"
    record_impression(call, by, size, rest)
    return finish(call, by, source, size, rest, call.container.degraded_dependencies())


def _state_request(page: _PageRequest) -> StateRequest | None:
    """Ask for the entity's state, and for scores of its catalogue in the context of the request; None where there is
    nothing to choose from yet."""
    call, entity, query = page.call, page.entity, page.query
    lists = call.model.recommender.lists
    if entity.catalog is not None and not entity.catalog.names:
        return None
    digest = None if page.cursor is None else page.cursor.support
    if query is not None:
        score = partial(_score_catalog, query, entity)
        return StateRequest(call.model, entity, call.entity_context, digest=digest, score=score)
    top_k = lists.batch_request(entity, page.request) if page.cursor is None else None
    # A page goes on where another ended, by the same scores.
    best_only = lists.has_whole_catalogue(entity, page.request)
    return StateRequest(call.model, entity, call.entity_context, digest=digest, top_k=top_k, best_only=best_only)


async def _resolve(
    page: _PageRequest, request: StateRequest | None, shared_state: SharedState | None
) -> StateResolution:
    """Find or make the entity's state, and score its catalogue in the context of the request."""
    if request is None:
        page.call.model.recommender.encoder.support([page.entity])  # wrong features are refused all the same
        return StateResolution(BatchResult({}, torch.zeros(1, FIRST)), "miss", 0.0)
    return await page.call.container.resolver.resolve(request, shared_state)


def _score_catalog(query: EncodedQuery, entity: EncodedEntity, recommender: Recommender, state: State) -> Tensor:
    return recommender.score_catalog(state, query, entity)


async def _build_list(page: _PageRequest, resolution: StateResolution) -> tuple[ItemList, list[FreshDraw]]:
    lists = page.call.model.recommender.lists
    if resolution.top_k is not None:
        return lists.build_from_top_k(resolution.top_k, page.entity, page.request), []
    if page.request.fresh is not None and not resolution.model_failed:
        # For 200 candidates the propensities take some milliseconds, too long for the event loop.
        return await asyncio.to_thread(lists.build_fresh, resolution.scores, page.entity, page.request, page.query)
    after = None if page.cursor is None else page.cursor.position
    return lists.build(resolution.scores, page.entity, page.request, page.query, after), []


def _log_fresh(page: _PageRequest, draws: Sequence[FreshDraw], model_failed: bool) -> dict[str, object]:
    """Log what was draws for the slots of a list, and return its part of the response."""
    if model_failed or page.request.fresh is None:
        return {"fresh": None}
    catalog, seed = page.call.model.recommender.catalog, page.request.fresh.seed
    names = [catalog.item_name(one.item) for one in draws]
    for row in fresh_rows(page.call, draws, names, seed):
        page.call.container.writer.put(row)
    items = [{"item": n, "propensity": one.propensity} for n, one in zip(names, draws, strict=True)]
    return {"fresh": {"seed": seed, "items": items}}


def _next_cursor(page: _PageRequest, end: ListPosition, rank: int) -> str:
    """Write the cursor of what follows the end of the page, whose last item has a rank."""
    entity, cursor = page.entity, page.cursor
    support, size = (entity.digest, entity.support_size) if cursor is None else (cursor.support, cursor.size)
    return write_cursor(page.scope.cursor(support, size, end, rank), page.call.container.profiles.cursor_key.value)


async def _explain(
    page: _PageRequest, items: list[ScoredItem], resolution: StateResolution
) -> Sequence[ItemExplanation]:
    """Explain each item; nothing for a list of older events or of a failed model, or while too many wait for theirs."""
    if resolution.model_failed or not items or not page.is_current:
        return ()
    call, entity = page.call, page.entity
    recommender, run = call.model.recommender, call.container.long_tasks.run
    ids = recommender.catalog.item_ids([one.item for one in items], entity.catalog)
    try:
        return await run(explain_items, recommender, entity, ids, page.query, max_wait=_EXPLANATION_WAIT_S)
    except WorkerBusy:
        return ()
    except Exception:  # a list without explanations is better than none
        call.container.log.error("explanation failed", model=call.model.name, version=call.model.version, exc_info=True)
        return ()
