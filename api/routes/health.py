"""`/livez`, `/readyz` and `/metrics`: liveness, readiness and metrics of the process."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.handlers.dependencies import ContainerDependency
from api.handlers.readiness import readiness_report
from api.handlers.response_encoding import json_response
from api.http.authorization import require
from api.http.guarded_route import GuardedRoute
from recsys_meta.wire.service_responses import ReadinessReport

router = APIRouter(route_class=GuardedRoute, tags=["health"])


@router.get("/livez")
@router.head("/livez", include_in_schema=False)
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz", responses={200: {"model": ReadinessReport}, 503: {"model": ReadinessReport}})
@router.head("/readyz", include_in_schema=False)
async def readyz(container: ContainerDependency) -> Response:
    """Report whether recommendations can be answered and how each dependency is. 503 while there is no model."""
    report = await readiness_report(container)
    return json_response(report, 503 if report["status"] == "unready" else 200)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    dependencies=[require("read")],
)
async def metrics(container: ContainerDependency) -> Response:
    """Figures for Prometheus."""
    return Response(container.metrics.render(), media_type=CONTENT_TYPE_LATEST)
