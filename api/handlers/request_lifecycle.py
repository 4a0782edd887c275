"""One request about an entity, from its start to its end: what the hot routes share."""

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
from api.inference.loaded_model import LoadedModel
from api.inference.state_resolver import Source, StateResolution
from api.telemetry.adaptation_diagnostics import ANONYMOUS, AnsweredRequest
from recsys_meta.core.errors import NotFoundError
from recsys_meta.inference.requests.entity import EncodedEntity
from recsys_meta.store.entities.adaptations import ServedBy
from recsys_meta.store.entities.impressions import NewImpression
from recsys_meta.wire.requests import EntityInput


class RequestContext(NamedTuple):
    """One request with one model and one reading of what is stored. `at`: its time; `began`: the same by the clock of
    `time.perf_counter`, seconds."""

    container: AppContainer
    request_id: str
    model: LoadedModel
    entity_context: EntityContext
    at: datetime
    began: float


async def open_request(
    model_name: str | None, entity: EntityInput, request: Request, container: AppContainer, version: str | None = None
) -> RequestContext:
    """Find the model, in the version of a cursor where there is one, and what is stored of the entity. Raises
    Problem."""
    at, began = datetime.now(UTC), time.perf_counter()
    name, _, prefix = (model_name or "").partition("@")
    if version is not None and prefix and version.startswith(prefix):
        # Not by the prefix of the request: since the first page it may have become that of several versions.
        model = await _model_of_cursor(container, name, version, entity)
    else:
        model = await container.registry.resolve(model_name, entity.kind, entity.id)
        if version is not None and version != model.version:
            model = await _model_of_cursor(container, model.name, version, entity)
    entity_context = await find_entity_context(container.profiles, model, entity)
    return RequestContext(container, request_id(request), model, entity_context, at, began)


async def _model_of_cursor(container: AppContainer, name: str, version: str, entity: EntityInput) -> LoadedModel:
    """The version that answered the first page. Raises Problem."""
    try:
        return await container.registry.resolve(f"{name}@{version}", entity.kind)
    except NotFoundError:  # what is wrong with the request is its cursor
        raise ProblemError(422, f"This cursor belongs to no version that model '{name}' has") from None


def finish_resolved(
    call: RequestContext, entity: EncodedEntity, resolution: StateResolution, rest: bytes, size: int | None = None
) -> Response:
    """Respond from a resolved state, and have an adaptation diagnosed afterwards. `rest`: the response without what
    `merge_response` adds; `size`: events of the support behind the response, where that is an older one."""
    size = entity.support_size if size is None else size
    by = served_by(size, resolution)
    missing = call.container.degraded_dependencies(
        profile=call.entity_context.is_known, model=not resolution.model_failed
    )
    if by != "adapted":
        return finish(call, by, resolution.source, size, rest, missing)
    call.container.metrics.observe_adaptation(call.model.name, resolution.ms / 1000)
    return finish(call, by, resolution.source, size, rest, missing, entity, resolution)


def served_by(size: int, resolution: StateResolution) -> ServedBy:
    """The step of the resolution that answered for a support of `size` events."""
    if resolution.model_failed:
        return "popular"
    if not size:
        return "prior"
    return "adapted" if resolution.source == "miss" else "cache"


def finish(
    call: RequestContext,
    by: ServedBy,
    source: Source,
    size: int,
    rest: bytes,
    missing: list[str],
    entity: EncodedEntity | None = None,
    resolution: StateResolution | None = None,
) -> Response:
    """Respond, and record the adaptation."""
    call.container.metrics.count_response(call.model.name, by, source)
    record_adaptation(call, call.entity_context, by, size, entity, resolution)
    return merge_response(call.request_id, call.model, by, missing, rest, source)


def record_adaptation(
    call: RequestContext,
    entity_context: EntityContext,
    by: ServedBy,
    size: int,
    entity: EncodedEntity | None = None,
    resolution: StateResolution | None = None,
) -> None:
    """Record a row of the table `adaptations` once the response is on its way."""
    record = AnsweredRequest(
        recommender=call.model.recommender,
        kind=entity_context.kind,
        entity=entity_context.entity or ANONYMOUS,
        served_by=by,
        ms=1000 * (time.perf_counter() - call.began),
        support_size=size,
        at=call.at,
        support=entity,
        adapted=resolution is not None and not resolution.model_failed,
        variant=call.model.variant,
    )
    # In the next turn of the event loop the response is on its way.
    asyncio.get_running_loop().call_soon(call.container.diagnoser.put, record)


def record_impression(call: RequestContext, by: ServedBy, size: int, rest: bytes) -> None:
    """Record a row of the table `impressions` once the response, with the list in `rest`, is on its way."""
    asyncio.get_running_loop().call_soon(_put_impression, call, by, size, rest)


def _put_impression(call: RequestContext, by: ServedBy, size: int, rest: bytes) -> None:
    model, context = call.model, call.entity_context
    impression = NewImpression(
        call.request_id,
        model.name,
        model.version,
        model.variant,
        context.kind,
        context.entity or ANONYMOUS,
        by,
        size,
        rest,
        call.at,
    )
    call.container.impressions.put(impression)
