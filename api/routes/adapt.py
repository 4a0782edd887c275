"""`POST /v1/adapt`: adapt now, and say what it did."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from api.container import AppContainer
from api.handlers.dependencies import ContainerDependency, request_id
from api.handlers.response_encoding import json_response
from api.http.authorization import Scopes, require
from api.http.problem_details import ProblemError, unavailable
from api.inference.entity_context import find_entity_context, read_support
from api.inference.model_registry import LoadedModel
from api.inference.state_resolver import StateRequest
from api.routes.events import receive
from api.telemetry.adaptation_diagnostics import ANONYMOUS, AnsweredRequest, adaptation_row, finite_or_none
from recsys_meta.inference.insight.diagnostics import AdaptationDiagnostics, diagnose
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.entities import entities
from recsys_meta.wire.requests import AdaptRequest, Event, SupportEvent
from recsys_meta.wire.responses import AdaptationResponse

router = APIRouter(prefix="/v1", tags=["newcomers"])

NEEDS_ID = {"in": "body", "pointer": "/entity/id", "detail": "is needed"}


@router.post("/adapt", responses={200: {"model": AdaptationResponse}})
async def adapt(
    body: AdaptRequest, request: Request, container: ContainerDependency, scopes: Annotated[Scopes, require("read")]
) -> Response:
    """Adapt to a newcomer and measure it: loss of the support before and after, and the norm of its gradient.

    `persist` stores the features and events given (scope write), so that later calls need the id only. An event that
    the store refuses, as `persisted` says, is adapted to this once.
    """
    model = await container.registry.resolve(body.model, body.entity.kind, body.entity.id)
    persisted = None
    if body.persist:
        if "write" not in scopes:
            raise ProblemError(403, "This key lacks the scope 'write', which 'persist' needs")
        persisted = await _persist(container, model, body)
    at = utcnow()
    entity_context = await find_entity_context(container.profiles, model, body.entity)
    # What was just stored is read back; where every event is a row it would count twice else.
    events = body.events if persisted is None or entity_context.profile is None else _refused(persisted, body.events)
    known = read_support(model, entity_context, body.entity, events)
    began = time.perf_counter()
    outcome = await container.resolver.resolve(StateRequest(model, known, entity_context, adapt_anew=True))
    if outcome.model_failed:
        raise unavailable(f"Model '{model.name}' cannot adapt; recommendations are by popularity meanwhile")
    ms = 1000 * (time.perf_counter() - began)
    (found,) = await asyncio.to_thread(diagnose, model.recommender, [known])
    by: Any = "adapted" if known.items else "prior"
    name = entity_context.entity or ANONYMOUS
    done = AnsweredRequest(
        model.recommender, entity_context.kind, name, by, ms, len(known.items), at, variant=model.variant
    )
    container.writer.put(adaptation_row(done, found if known.items else None))
    missing = container.degraded_dependencies(
        profile=entity_context.entity is None or entity_context.profile is not None
    )
    return json_response(
        {
            "request_id": request_id(request),
            "model": {"name": model.name, "version": model.version},
            "variant": model.variant,
            "degraded": bool(missing),
            "missing": missing,
            "support_size": len(known.items),
            "unknown_items": known.unknown,
            "unknown_features": model.recommender.encoder.unknown(known.features),
            **_figures(found),
            "ms": ms,
            "persisted": persisted and {"request_id": request_id(request), **persisted},
        }
    )


def _figures(found: AdaptationDiagnostics) -> dict[str, Any]:
    empty = not found.support_size
    figures = {
        "loss_before": found.loss_before,
        "loss_after": found.loss_after,
        "gradient_norm": found.gradient_norm,
    }
    return {"steps": found.steps} | {k: None if empty else finite_or_none(v) for k, v in figures.items()}


async def _persist(container: AppContainer, model: LoadedModel, body: AdaptRequest) -> dict[str, Any]:
    """Store what the body says of the entity; nothing of it where the model could not read it."""
    entity = body.entity.id
    if entity is None:
        raise ProblemError(422, "'persist' needs entity.id", errors=[NEEDS_ID])
    # Raises DataError for what the model cannot read, before any of it is stored.
    known = read_support(
        model, await find_entity_context(container.profiles, model, body.entity), body.entity, body.events
    )
    model.recommender.encoder.support([known])
    if body.entity.features:
        await container.database.write(lambda s: _merge(s, model.kind, entity, body.entity.features))
        await container.profiles.invalidate([(model.kind, entity)])
    given = [e.model_dump(exclude_none=True) for e in body.events]
    return await receive(container, [Event(kind=model.kind, entity=entity, **e) for e in given])


def _refused(receipt: Mapping[str, Any], events: Sequence[SupportEvent]) -> list[SupportEvent]:
    """The events that the store did not take: they are adapted to all the same, as without `persist`."""
    return [events[one["index"]] for one in receipt["refused"]]


def _merge(session: Any, kind: str, entity: str, features: dict[str, Any]) -> None:
    row = entities.find_entity(session, kind, entity)
    entities.upsert_entity(session, kind, entity, {**(row.features if row else {}), **features})
