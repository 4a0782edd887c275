"""`/livez`, `/readyz` and `/metrics`: liveness, readiness and metrics of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.container import AppContainer
from api.handlers.dependencies import ContainerDependency
from api.handlers.response_encoding import json_response
from api.http.authorization import require
from api.http.guarded_route import GuardedRoute
from recsys_meta.core.errors import RecsysMetaError
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
    pings: dict[str, Awaitable[None]] = {"database": container.database.ping()}
    if container.redis is not None:
        pings["redis"] = container.redis.ping()
    results = await asyncio.gather(*pings.values(), return_exceptions=True)
    checks = {name: _check_result(result) for name, result in zip(pings, results, strict=True)}
    checks["models"] = _check_models(container)
    ready = bool(container.registry.live)
    all_ok = all(check["ok"] for check in checks.values())
    status = "unready" if not ready else "ready" if all_ok else "degraded"
    return json_response({"status": status, "checks": checks}, 200 if ready else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    dependencies=[require("read")],
)
async def metrics(container: ContainerDependency) -> Response:
    """Figures for Prometheus."""
    return Response(container.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _check_result(result: BaseException | None) -> dict[str, Any]:
    detail = None if result is None else str(result) if isinstance(result, RecsysMetaError) else type(result).__name__
    return {"ok": result is None, "needed": False, "detail": detail}


def _check_models(container: AppContainer) -> dict[str, Any]:
    live, load_errors = container.registry.live, container.registry.broken
    parts = [f"{s.name}@{s.version}" for s in live.values()] or ["none in service"]
    parts += [f"{name}: a version in service cannot be used; GET /v1/models says why" for name in load_errors]
    parts += [f"{s.name}: fails, popularity answers" for s in live.values() if s.sample is None]
    ok = bool(live) and not load_errors and all(s.sample is not None for s in live.values())
    return {"ok": ok, "needed": True, "detail": ", ".join(parts)}
