"""One call about a newcomer, from its start to its end: what hot routes share."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import NamedTuple

from fastapi import Request, Response

from api.container import AppContainer
from api.handlers.dependencies import request_id
from api.handlers.response_encoding import merge_response
from api.http.problem_details import ProblemError
from api.inference.entity_context import EntityContext, find_entity_context
from api.inference.model_registry import LoadedModel
from api.inference.state_resolver import Source, StateResolution
from api.telemetry.adaptation_diagnostics import ANONYMOUS, AnsweredRequest
from recsys_meta.core.errors import NotFoundError
from recsys_meta.inference.requests.entity import EncodedEntity
from recsys_meta.store.entities.adaptations import ServedBy
from recsys_meta.wire.requests import EntityInput


class RequestContext(NamedTuple):
    """One request, from its start to its end with one model and one reading of what is stored."""

    container: AppContainer
    request_id: str
    model: LoadedModel
    entity_context: EntityContext
    at: datetime
    began: float


async def open_request(
    model_name: str | None, entity: EntityInput, request: Request, container: AppContainer, version: str | None = None
) -> RequestContext:
    """Find the model, of the version of a cursor where there is one, and what is stored of the entity. Raises
    Problem."""
    at, began = datetime.now(UTC), time.perf_counter()
    name, _, start = (model_name or "").partition("@")
    if version is not None and start and version.startswith(start):
        # Not by the start that was asked for: since the first page it may have become that of several versions.
        model = await _of_cursor(container, name, version, entity)
    else:
        model = await container.registry.resolve(model_name, entity.kind, entity.id)
        if version is not None and version != model.version:
            model = await _of_cursor(container, model.name, version, entity)
    entity_context = await find_entity_context(container.profiles, model, entity)
    return RequestContext(container, request_id(request), model, entity_context, at, began)


async def _of_cursor(container: AppContainer, name: str, version: str, entity: EntityInput) -> LoadedModel:
    """The version that answered the first page. Raises Problem."""
    try:
        return await container.registry.resolve(f"{name}@{version}", entity.kind)
    except NotFoundError:  # what is wrong with the request is its cursor
        raise ProblemError(422, f"This cursor belongs to no version that model '{name}' has") from None


def finish_resolved(
    call: RequestContext, known: EncodedEntity, outcome: StateResolution, rest: bytes, size: int | None = None
) -> Response:
    """The answer of a resolution, with what is to be diagnosed when it has left. `size` is of the support that was
    answered for, where that is an older one."""
    size = len(known.items) if size is None else size
    by = served_by(size, outcome)
    profile = call.entity_context.entity is None or call.entity_context.profile is not None
    missing = call.container.degraded_dependencies(profile=profile, model=not outcome.model_failed)
    if by != "adapted":
        return finish(call, by, outcome.source, size, rest, missing)
    call.container.metrics.adapt_seconds.labels(call.model.name).observe(outcome.ms / 1000)
    return finish(call, by, outcome.source, size, rest, missing, known, outcome)


def served_by(size: int, outcome: StateResolution) -> ServedBy:
    """Which step of the resolution answered for a support of so many events."""
    if outcome.model_failed:
        return "popular"
    if not size:
        return "prior"
    return "adapted" if outcome.source == "miss" else "cache"


def finish(
    call: RequestContext,
    by: ServedBy,
    source: Source,
    size: int,
    rest: bytes,
    missing: list[str],
    known: EncodedEntity | None = None,
    outcome: StateResolution | None = None,
) -> Response:
    """Answer, and leave a row for the table of adaptations."""
    call.container.metrics.count_response(call.model.name, by, source)
    record_adaptation(call, call.entity_context, by, size, known, outcome)
    return merge_response(call.request_id, call.model, by, missing, rest, source)


def record_adaptation(
    call: RequestContext,
    entity_context: EntityContext,
    by: ServedBy,
    size: int,
    known: EncodedEntity | None = None,
    outcome: StateResolution | None = None,
) -> None:
    """Leave a row about a newcomer when the answer is on its way."""
    done = AnsweredRequest(
        recommender=call.model.recommender,
        kind=entity_context.kind,
        entity=entity_context.entity or ANONYMOUS,
        served_by=by,
        ms=1000 * (time.perf_counter() - call.began),
        support_size=size,
        at=call.at,
        support=known,
        adapted=outcome is not None and not outcome.model_failed,
        variant=call.model.variant,
    )
    # When the loop comes round again the answer is on its way.
    asyncio.get_running_loop().call_soon(call.container.diagnoser.put, done)
