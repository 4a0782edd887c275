"""`POST /v1/recommendations` and `POST /v1/score`: the hot path."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
from fastapi import APIRouter, Request, Response

from api import answers
from api.diagnosis import ANONYMOUS, Done
from api.house import House
from api.models import RecommendationRequest, ScoreRequest
from api.registry import Served
from api.replies import joined, pack, ranked, unpack
from api.routes.door import enter, request_id, takes
from api.serving import PROCESS_S, Outcome, Source
from api.subjects import Subject, find_subject, know
from recsys_meta.recommend import Known, Scored
from recsys_meta.store.adaptations import ServedBy
from recsys_meta.types import FIRST

router = APIRouter(prefix="/v1", tags=["newcomers"])


@router.post(
    "/recommendations",
    responses={200: {"model": answers.Recommendations}},
    openapi_extra=takes(RecommendationRequest),
)
async def recommend(request: Request) -> Response:
    """The n best items for a newcomer, adapted to its first interactions.

    Exactly n items come back unless fewer exist. `served_by` says how: `adapted`, `cache` (the adapted state was at
    hand), `prior` (nothing is known but features) or `popular` (the model failed). The header `x-cache` says where
    the state was found: `process`, `redis` or `miss`.
    """
    house, body = await enter(request, "read", RecommendationRequest)
    call = await _begin(body, request, house)
    key = _list_key(call, await request.body())
    kept = None if key is None else house.memory.get(key)
    if kept is not None:
        prior, size, rest = unpack(kept)
        return _end(call, "prior" if prior else "cache", "process", size, rest, house.missing())
    known = know(call.served, call.subject, body.entity, body.events)
    outcome = await house.ladder.climb(call.served, known, call.subject)
    items, unknown = _list(call.served, body, known, outcome)
    rest = orjson.dumps({"support_size": len(known.items), "unknown_items": unknown, "items": ranked(items)})
    if key is not None and not outcome.broken:
        house.memory.set(key, pack(not known.items, len(known.items), rest), PROCESS_S, call.subject.owner)
    return _climbed(call, known, outcome, rest)


@router.post("/score", responses={200: {"model": answers.Scores}}, openapi_extra=takes(ScoreRequest))
async def score(request: Request) -> Response:
    """Scores of given items for a newcomer: logits for rankings and clicks, label units for ratings."""
    house, body = await enter(request, "read", ScoreRequest)
    call = await _begin(body, request, house)
    known = know(call.served, call.subject, body.entity, body.events)
    outcome = await house.ladder.climb(call.served, known, call.subject)
    bundle = call.served.recommender.bundle
    ids = bundle.vocab.ids("item", body.items)
    values = outcome.scores[ids].tolist()
    scores = [
        {"item": item, "score": value if padded >= FIRST else None}
        for item, value, padded in zip(body.items, values, ids.tolist(), strict=True)
    ]
    rest = {"support_size": len(known.items), "unknown_items": known.unknown, "objective": bundle.schema.objective}
    return _climbed(call, known, outcome, orjson.dumps(rest | {"scores": scores}))


@dataclass(frozen=True)
class _Call:
    """One request, from its start to its end with one model and one reading of what is stored."""

    house: House
    request_id: str
    served: Served
    subject: Subject
    at: datetime
    began: float


async def _begin(body: RecommendationRequest | ScoreRequest, request: Request, house: House) -> _Call:
    at, began = datetime.now(UTC), time.perf_counter()
    served = await house.registry.resolve(body.model, body.entity.kind)
    subject = await find_subject(house.profiles, served, body.entity)
    return _Call(house, request_id(request), served, subject, at, began)


def _list_key(call: _Call, body: bytes) -> str | None:
    """The key of a list in the process's cache; None where an equal request may get another answer."""
    if not call.subject.repeatable:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for part in (call.served.name, call.served.version, call.subject.stamp or ""):
        digest.update(part.encode() + b"\0")
    digest.update(body)
    return f"list:{digest.hexdigest()}"


def _list(
    served: Served, body: RecommendationRequest, known: Known, outcome: Outcome
) -> tuple[list[Scored], list[str]]:
    """The list, and the items of events and candidates that the model does not have."""
    recommender = served.recommender
    exclude = set(recommender.ids(body.exclude)) if body.exclude else set[int]()
    if not body.include_seen:
        exclude |= known.seen
    unknown, candidates = list(known.unknown), None
    if body.candidates is not None:
        ids = recommender.bundle.vocab.ids("item", body.candidates).tolist()
        candidates = [i for i in ids if i >= FIRST]
        lacking = {item for item, i in zip(body.candidates, ids, strict=True) if i < FIRST}
        unknown = sorted(lacking.union(unknown))
    return recommender.top(outcome.scores, body.n, exclude=exclude, candidates=candidates), unknown


def _climbed(call: _Call, known: Known, outcome: Outcome, rest: bytes) -> Response:
    """The answer after the ladder, with what is to be diagnosed when it has left."""
    served_by = _served_by(known, outcome)
    profile = call.subject.entity is None or call.subject.profile is not None
    missing = call.house.missing(profile=profile, model=not outcome.broken)
    if served_by != "adapted":
        return _end(call, served_by, outcome.source, len(known.items), rest, missing)
    call.house.metrics.adapting.labels(call.served.name).observe(outcome.ms / 1000)
    return _end(call, served_by, outcome.source, len(known.items), rest, missing, known, outcome)


def _served_by(known: Known, outcome: Outcome) -> ServedBy:
    if outcome.broken:
        return "popular"
    if not known.items:
        return "prior"
    return "adapted" if outcome.source == "miss" else "cache"


def _end(
    call: _Call,
    served_by: ServedBy,
    source: Source,
    size: int,
    rest: bytes,
    missing: list[str],
    known: Known | None = None,
    outcome: Outcome | None = None,
) -> Response:
    done = Done(
        recommender=call.served.recommender,
        kind=call.subject.kind,
        entity=call.subject.entity or ANONYMOUS,
        served_by=served_by,
        ms=1000 * (time.perf_counter() - call.began),
        support_size=size,
        at=call.at,
        known=known,
        state=outcome.state if outcome else None,
    )
    call.house.metrics.answers.labels(call.served.name, served_by, source).inc()
    # When the loop comes round again the answer is on its way.
    asyncio.get_running_loop().call_soon(call.house.diagnoser.put, done)
    return joined(call.request_id, call.served, served_by, missing, rest, source)
