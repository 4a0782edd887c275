"""`POST /v1/recommendations` and `POST /v1/score`: the hot path."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import orjson
import torch
from fastapi import APIRouter, Request, Response

from api.handlers.dependencies import authorize_and_parse, request_schema
from api.handlers.request_lifecycle import RequestContext, finish, finish_resolved, open_request
from api.handlers.response_encoding import encode_items, pack, unpack
from api.handlers.score import rank_entities, score_rows
from api.http.problem_details import ProblemError
from api.inference.cache_writer import MEMORY_TTL_S
from api.inference.entity_context import read_support
from api.inference.long_tasks import WorkerBusy
from api.inference.micro_batcher import BatchResult
from api.inference.model_registry import LoadedModel
from api.inference.state_resolver import Source, StateRequest, StateResolution, list_expired
from recsys_meta.core.errors import DataError
from recsys_meta.core.types import FIRST, State
from recsys_meta.inference.insight.explanations import ItemExplanation, explain_items
from recsys_meta.inference.ranking.filters import FeatureFilter
from recsys_meta.inference.ranking.list_cursor import (
    ListCursor,
    context_digest,
    read_cursor,
    scope_digest,
    write_cursor,
)
from recsys_meta.inference.recommender import (
    EncodedEntity,
    EncodedQuery,
    QueryContext,
    Recommender,
    ScoredItem,
    TopKRequest,
)
from recsys_meta.store.cache.keys import list_key
from recsys_meta.wire.requests import ItemWithFeatures, QueryContextInput, RecommendationRequest, ScoreRequest
from recsys_meta.wire.responses import EntityRankingResponse, RecommendationResponse, ScoreResponse

_WHY_S = 1.0  # how long a list waits for the turn of its reasons, seconds

router = APIRouter(prefix="/v1", tags=["newcomers"])


@router.post(
    "/recommendations",
    responses={200: {"model": RecommendationResponse}},
    openapi_extra=request_schema(RecommendationRequest),
)
async def recommend(request: Request) -> Response:
    """The n best items for a newcomer, adapted to its first interactions.

    Exactly n items come back unless fewer exist. `served_by` says how: `adapted`, `cache` (the adapted state was at
    hand), `prior` (nothing is known but features) or `popular` (the model failed). The header `x-cache` says where
    the state was found: `process`, `redis` or `miss`. `next`, sent back as `cursor` with the same request, gives the
    items that follow. 409: the events have changed since and nobody holds that list any more.
    """
    container, body, raw = await authorize_and_parse(request, "read", RecommendationRequest)
    place = _place(body.cursor, container.profiles.secret) if body.cursor else None
    call = await open_request(body.model, body.entity, request, container, place.version if place else None)
    key = _list_key(call, raw)
    made = None if key is None else await container.resolver.cached_list(key, call.entity_context)
    if made is not None:
        return _again(call, *made)
    known = read_support(call.model, call.entity_context, body.entity, body.events)
    question = None
    if body.moment is not None or (known.own is not None and body.candidates):
        known, question = _ask(call.model.recommender, known, body)
    if place is not None:
        _check_place(place, call, body, known)
        if place.support != known.digest and await _erased(call):
            raise list_expired()
    outcome = await _climb(call, body, known, question, place)
    items, unknown = _list(call.model, body, known, question, outcome, place)
    more = len(items) > body.n and not outcome.model_failed
    items = items[: body.n]
    following = _next(call, body, known, items[-1], place) if more else None
    whys = await _whys(call, known, question, items, outcome, place) if body.explain else ()
    size = len(known.items) if place is None else place.size
    rest = orjson.dumps(
        {
            "support_size": size,
            "unknown_items": unknown,
            "unknown_features": call.model.recommender.unknown_features(known.features),
            "items": encode_items(items, whys),
            "next": following,
        }
    )
    if key is not None and not outcome.model_failed and (whys or not body.explain):
        kept = pack(not size, size, rest)
        if outcome.source == "miss":  # few ask twice, and who does elsewhere finds the state in Redis
            container.memory.set(key, kept, MEMORY_TTL_S, call.entity_context.owner)
        else:
            container.cache_writer.put(key, kept, call.entity_context, MEMORY_TTL_S)
    return finish_resolved(call, known, outcome, rest, size)


@router.post(
    "/score",
    responses={200: {"model": ScoreResponse | EntityRankingResponse}},
    openapi_extra=request_schema(ScoreRequest),
)
async def score(request: Request) -> Response:
    """Scores of given items or rows for a newcomer: logits for rankings and clicks, label units for ratings.

    For clicks also probabilities, with a 95% interval where the model knows how sure it is. With `entities` and a
    `row` it is the other way round: the entities ranked for that row.
    """
    container, body, _ = await authorize_and_parse(request, "read", ScoreRequest)
    return await (rank_entities if body.entities else score_rows)(request, container, body)


def _place(cursor: str, secret: bytes) -> ListCursor:
    """Where a list goes on. Raises Problem."""
    try:
        return read_cursor(cursor, secret)
    except ValueError as error:
        raise ProblemError(422, str(error)) from None


def _list_key(call: RequestContext, body: bytes) -> str | None:
    """The key of a list in the caches; None where an equal request may get another answer."""
    entity_context, model = call.entity_context, call.model
    if entity_context.mark is None:
        return None
    return list_key(
        model.name, model.version, entity_context.kind, entity_context.entity or "", entity_context.mark, body
    )


def _again(call: RequestContext, kept: bytes, source: Source) -> Response:
    """The answer with a list that was made before."""
    prior, size, rest = unpack(kept)
    return finish(call, "prior" if prior else "cache", source, size, rest, call.container.degraded_dependencies())


def _ask(
    recommender: Recommender, known: EncodedEntity, body: RecommendationRequest
) -> tuple[EncodedEntity, EncodedQuery]:
    """The moment of a request, and the newcomer with what the request says of items."""
    told: dict[str, Mapping[str, Any]] = {}
    for one in [*(body.candidates or ()), *((body.moment and body.moment.history) or ())]:
        name, features = (one.item, one.features) if isinstance(one, ItemWithFeatures) else (one, {})
        told[name] = {**told.get(name, {}), **features}
    return recommender.encode_query(known, _moment(body.moment) or QueryContext(), told)


def _moment(body: QueryContextInput | None) -> QueryContext | None:
    if body is None:
        return None
    at = None if body.lat is None or body.lon is None else (body.lat, body.lon)
    history = None if body.history is None else [one if isinstance(one, str) else one.item for one in body.history]
    return QueryContext(body.context, body.actor, at, history)


async def _climb(
    call: RequestContext,
    body: RecommendationRequest,
    known: EncodedEntity,
    question: EncodedQuery | None,
    place: ListCursor | None,
) -> StateResolution:
    resolver = call.container.resolver
    if known.own is not None and not known.own.names:  # there is nothing to choose from yet
        call.model.recommender.support([known])  # wrong features are refused all the same
        return StateResolution(BatchResult({}, torch.zeros(1, FIRST)), "miss", 0.0)
    support = None if place is None else place.support
    if question is None:
        plain = place is None and known.own is None and body.candidates is None and not body.filters
        wish = TopKRequest(body.n + 1, _left_out(call.model.recommender, body, known, question)) if plain else None
        return await resolver.resolve(StateRequest(call.model, known, call.entity_context, digest=support, top_k=wish))
    ask = partial(_answer, question)
    return await resolver.resolve(StateRequest(call.model, known, call.entity_context, digest=support, score=ask))


def _answer(question: EncodedQuery, recommender: Recommender, state: State) -> Any:
    return recommender.score_catalog(state, question)


def _list(
    model: LoadedModel,
    body: RecommendationRequest,
    known: EncodedEntity,
    question: EncodedQuery | None,
    outcome: StateResolution,
    place: ListCursor | None,
) -> tuple[list[ScoredItem], list[str]]:
    """The list and one item more, if there is one; and the items of events and candidates that the model lacks."""
    recommender = model.recommender
    if outcome.top_k is not None:
        return recommender.to_items(outcome.top_k), list(known.unknown)
    unknown, candidates = list(known.unknown), None
    if body.candidates is not None:
        names = [one if isinstance(one, str) else _name(one, known) for one in body.candidates]
        ids = recommender.item_ids(names, known)
        candidates = [i for i in ids if i >= FIRST]
        lacking = {item for item, i in zip(names, ids, strict=True) if i < FIRST}
        unknown = sorted(lacking.union(unknown))
    items = recommender.top_k(
        outcome.scores,
        body.n + 1,
        exclude=_left_out(recommender, body, known, question),
        candidates=candidates,
        own=known.own,
        among=recommender.filter_mask(_rules(body), known) if body.filters else None,
        after=None if place is None else place.after,
    )
    return items, unknown


def _rules(body: RecommendationRequest) -> dict[str, FeatureFilter]:
    return {
        name: FeatureFilter(
            None if one.any is None else tuple(one.any), tuple(one.all), tuple(one.none), one.min, one.max
        )
        for name, one in body.filters.items()
    }


def _entity_digest(call: RequestContext) -> bytes:
    return scope_digest(call.entity_context.owner or "")


def _check_place(place: ListCursor, call: RequestContext, body: RecommendationRequest, known: EncodedEntity) -> None:
    """Raise Problem where a cursor was made for something else, or for a list that can no longer be made."""
    if place.version != call.model.version or not place.version.startswith((body.model or "").partition("@")[2]):
        raise ProblemError(422, "This cursor belongs to another version of the model")
    if (place.entity, place.moment) != (_entity_digest(call), context_digest(_moment(body.moment))):
        raise ProblemError(422, "This cursor belongs to another newcomer or moment")
    if known.own is not None and place.support != known.digest:
        raise list_expired()


async def _erased(call: RequestContext) -> bool:
    """Whether the events of an older page may be gone because they were erased, with its states in this process yet."""
    kind, entity = call.entity_context.kind, call.entity_context.entity
    return entity is not None and await call.container.profiles.was_erased(kind, entity, 2 * MEMORY_TTL_S)


def _next(
    call: RequestContext, body: RecommendationRequest, known: EncodedEntity, last: ScoredItem, place: ListCursor | None
) -> str:
    """The cursor of what follows the last item."""
    item = call.model.recommender.item_ids([last.item], known)[0]
    support, size = (known.digest, len(known.items)) if place is None else (place.support, place.size)
    moment = context_digest(_moment(body.moment))
    made = ListCursor(call.model.version, support, size, _entity_digest(call), moment, last.score, item)
    return write_cursor(made, call.container.profiles.secret)


async def _whys(
    call: RequestContext,
    known: EncodedEntity,
    question: EncodedQuery | None,
    items: list[ScoredItem],
    outcome: StateResolution,
    place: ListCursor | None,
) -> Sequence[ItemExplanation]:
    """Why each item is there; nothing for a list of older events or of a failed model, or where too many ask."""
    if outcome.model_failed or not items or (place is not None and place.support != known.digest):
        return ()
    recommender = call.model.recommender
    ids = recommender.item_ids([s.item for s in items], known)
    try:
        return await call.container.long_tasks.run(explain_items, recommender, known, ids, question, max_wait=_WHY_S)
    except WorkerBusy:
        return ()
    except Exception:  # a list without reasons is better than none
        call.container.log.error("explanation failed", model=call.model.name, version=call.model.version, exc_info=True)
        return ()


def _left_out(
    recommender: Recommender, body: RecommendationRequest, known: EncodedEntity, question: EncodedQuery | None
) -> Collection[int]:
    """Ids of what shall not be listed."""
    met = _met(body, known, question)
    return met.union(recommender.known_item_ids(body.exclude, known.own)) if body.exclude else met


def _met(body: RecommendationRequest, known: EncodedEntity, question: EncodedQuery | None) -> frozenset[int]:
    """What was met and shall not come again, and what is never an answer."""
    if known.own is None:
        return frozenset() if body.include_seen else known.seen
    hidden = question.hidden if question else frozenset()
    if body.include_seen is not False:  # who chooses may well choose the same again
        return hidden
    by_actor = body.moment is not None and (body.moment.actor is not None or body.moment.history is not None)
    return hidden | (question.met if question and by_actor else known.seen)


def _name(told: ItemWithFeatures, known: EncodedEntity) -> str:
    """The name of an item that was told with features, where there is room for them."""
    if known.own is None and told.features:
        raise DataError("only entities with items of their own can be told of new ones", field="features")
    return told.item
