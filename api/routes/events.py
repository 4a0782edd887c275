"""`POST /v1/events`: feedback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from api.container import AppContainer
from api.handlers.dependencies import ContainerDependency, request_id
from api.handlers.event_ingestion import event_rejection, save_events, validate_events
from api.handlers.response_encoding import json_response
from api.http.authorization import require
from recsys_meta.wire.requests import EventBatch
from recsys_meta.wire.responses import EventReceipt

router = APIRouter(prefix="/v1", tags=["newcomers"], dependencies=[require("write")])


@router.post("/events", responses={200: {"model": EventReceipt}})
async def post_events(body: EventBatch, request: Request, container: ContainerDependency) -> Response:
    """Store interactions of any entities, at most 1000 a call.

    Sending an event again under its `event_id` changes nothing. A wrong event is refused with its reason and the
    others are stored. 503 with `Retry-After` while the database is away: then none is.
    """
    return json_response({"request_id": request_id(request), **await receive(container, body.events)})


async def receive(container: AppContainer, raw: Sequence[Any]) -> dict[str, Any]:
    """Judge and store events; answers what became of them. Raises Unavailable."""
    judged, refused = validate_events(raw, container.registry)
    outcomes = await container.database.write(lambda s: save_events(s, judged)) if judged else []
    for one, outcome in zip(judged, outcomes, strict=True):
        if outcome == "conflict":
            reason = "event_id: is known with other content, which stays as it was"
            refused.append(event_rejection(one.index, raw[one.index], reason))
    changed = {(j.event.kind, j.event.entity) for j, outcome in zip(judged, outcomes, strict=True) if outcome == "new"}
    await container.profiles.invalidate(changed)
    counts = {"accepted": outcomes.count("new"), "duplicates": outcomes.count("duplicate")}
    for name, count in {**counts, "refused": len(refused)}.items():
        container.metrics.events.labels(name).inc(count)
    missing = container.degraded_dependencies()
    refused.sort(key=lambda r: int(r["index"]))
    return {**counts, "refused": refused, "degraded": bool(missing), "missing": missing}
