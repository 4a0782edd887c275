"""`POST /v1/adapt`: adapt now, and measure it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from api.container import AppContainer
from api.handlers.dependencies import ContainerDependency, request_id
from api.handlers.event_ingestion import ingest_events
from api.handlers.response_encoding import json_response
from api.http.authorization import Scopes, require
from api.http.guarded_route import GuardedRoute
from api.http.problem_details import ProblemError, unavailable
from api.inference.entity_context import find_entity_context, read_support
from api.inference.loaded_model import LoadedModel
from api.inference.state_resolver import StateRequest
from api.telemetry.adaptation_diagnostics import ANONYMOUS, AnsweredRequest, adaptation_row
from recsys_meta.inference.insight.diagnostics import AdaptationDiagnostics, diagnose, finite_or_none
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.entities import entities
from recsys_meta.wire.requests import AdaptRequest, Event, SupportEvent
from recsys_meta.wire.responses import AdaptationResponse

router = APIRouter(route_class=GuardedRoute, prefix="/v1", tags=["newcomers"])

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
    receipt = None
    if body.persist:
        if "write" not in scopes:
            raise ProblemError(403, "This key lacks the scope 'write', which 'persist' needs")
        receipt = await _persist(container, model, body)
    at = utcnow()
    context = await find_entity_context(container.profiles, model, body.entity)
    # Stored events are read back; given again, they would count twice where every event is a row of the support.
    events = body.events if receipt is None or context.profile is None else _rejected_events(receipt, body.events)
    entity = read_support(model, context, body.entity, events)
    began = time.perf_counter()
    resolution = await container.resolver.resolve(StateRequest(model, entity, context, adapt_anew=True))
    if resolution.model_failed:
        raise unavailable(f"Model '{model.name}' cannot adapt; recommendations are by popularity meanwhile")
    ms = 1000 * (time.perf_counter() - began)
    (diagnostics,) = await asyncio.to_thread(diagnose, model.recommender, [entity])
    size = entity.support_size
    record = AnsweredRequest(
        recommender=model.recommender,
        kind=context.kind,
        entity=context.entity or ANONYMOUS,
        served_by="adapted" if size else "prior",
        ms=ms,
        support_size=size,
        at=at,
        variant=model.variant,
    )
    container.writer.put(adaptation_row(record, diagnostics if size else None))
    missing = container.degraded_dependencies(profile=context.is_known)
    return json_response(
        {
            "request_id": request_id(request),
            "model": {"name": model.name, "version": model.version},
            "variant": model.variant,
            "degraded": bool(missing),
            "missing": missing,
            "support_size": size,
            "unknown_items": entity.unknown_items,
            "unknown_features": model.recommender.encoder.unknown_features(entity.features),
            **_diagnostic_fields(diagnostics),
            "ms": ms,
            "persisted": receipt and {"request_id": request_id(request), **receipt},
        }
    )


def _diagnostic_fields(diagnostics: AdaptationDiagnostics) -> dict[str, Any]:
    empty = not diagnostics.support_size
    values = {
        "loss_before": diagnostics.loss_before,
        "loss_after": diagnostics.loss_after,
        "gradient_norm": diagnostics.gradient_norm,
    }
    return {"steps": diagnostics.steps} | {k: None if empty else finite_or_none(v) for k, v in values.items()}


async def _persist(container: AppContainer, model: LoadedModel, body: AdaptRequest) -> dict[str, Any]:
    """Store the features and events of the body; none of them where the model cannot read one. Raises DataError."""
    entity = body.entity.id
    if entity is None:
        raise ProblemError(422, "'persist' needs entity.id", errors=[NEEDS_ID])
    context = await find_entity_context(container.profiles, model, body.entity)
    model.recommender.encoder.support([read_support(model, context, body.entity, body.events)])
    if body.entity.features:
        await container.database.write(lambda s: _merge(s, model.kind, entity, body.entity.features))
        await container.profiles.invalidate([(model.kind, entity)])
    events = [event.model_dump(exclude_none=True) for event in body.events]
    return await ingest_events(container, [Event(kind=model.kind, entity=entity, **event) for event in events])


def _rejected_events(receipt: Mapping[str, Any], events: Sequence[SupportEvent]) -> list[SupportEvent]:
    """The events that were not stored: they are adapted to all the same, as without `persist`."""
    return [events[rejection["index"]] for rejection in receipt["refused"]]


def _merge(session: Any, kind: str, entity: str, features: dict[str, Any]) -> None:
    row = entities.find_entity(session, kind, entity)
    entities.upsert_entity(session, kind, entity, {**(row.features if row else {}), **features})
