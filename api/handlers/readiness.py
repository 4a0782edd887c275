"""Readiness: whether recommendations can be answered, and how each dependency is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from api.container import AppContainer
from recsys_meta.core.errors import RecsysMetaError


async def readiness_report(container: AppContainer) -> dict[str, Any]:
    """Return `status` (ready, degraded or unready: no model answers) and `checks` of the dependencies by name."""
    pings: dict[str, Awaitable[None]] = {"database": container.database.ping()}
    if container.redis is not None:
        pings["redis"] = container.redis.ping()
    results = await asyncio.gather(*pings.values(), return_exceptions=True)
    checks = {name: _check_result(result) for name, result in zip(pings, results, strict=True)}
    checks["models"] = _check_models(container)
    all_ok = all(check["ok"] for check in checks.values())
    status = "unready" if not container.registry.live else "ready" if all_ok else "degraded"
    return {"status": status, "checks": checks}


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
