"""`POST /v1/events`: interactions to store."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.handlers.dependencies import ContainerDependency, request_id
from api.handlers.event_ingestion import ingest_events
from api.handlers.response_encoding import json_response
from api.http.authorization import require
from api.http.guarded_route import GuardedRoute
from recsys_meta.wire.requests import EventBatch
from recsys_meta.wire.responses import EventReceipt

router = APIRouter(route_class=GuardedRoute, prefix="/v1", tags=["newcomers"], dependencies=[require("write")])


@router.post("/events", responses={200: {"model": EventReceipt}})
async def post_events(body: EventBatch, request: Request, container: ContainerDependency) -> Response:
    """Store interactions of any entities, at most 1000 a call.

    Sending an event again under its `event_id` changes nothing. A wrong event is refused with its reason and the
    others are stored. 503 with `Retry-After` while the database is away: then none is.
    """
    return json_response({"request_id": request_id(request), **await ingest_events(container, body.events)})
