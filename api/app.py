"""The application. Start it with `uvicorn --factory api.app:create_app`."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from api.container import lifespan_container
from api.http import problem_details as problems
from api.http.api_keys import ApiKeyStore, parse_keys
from api.http.fast_path import FastPathMiddleware
from api.http.rate_limit import RateLimiter, RateLimitMiddleware
from api.http.request_context_middleware import RequestContextMiddleware
from api.http.tracing import TracingMiddleware, open_tracing
from api.routes import adapt, entities, events, health, models, onboarding, recommendations
from api.routes import tracking as results
from api.routes import traffic_splits as splits
from api.schemas import docs_page as page
from api.schemas import openapi
from api.telemetry.logging import open_log, stdlib_bridge
from api.telemetry.metrics import ServerMetrics
from recsys_meta import __version__
from recsys_meta.store.settings import Settings


class ApiApplication(FastAPI):
    """FastAPI behind doors of our own: what they answer by themselves does not pass through the framework."""

    front: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.front(scope, receive, send)

    async def framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What lies behind the doors."""
        await super().__call__(scope, receive, send)


def create_app() -> FastAPI:
    """The application with the settings of the environment, in a process of its own. Raises ConfigError for keys that
    cannot be read."""
    # What was imported stays. To look through all of it for garbage takes a quarter of a second without an answer.
    gc.collect()
    gc.freeze()
    return build_app(Settings())


def build_app(settings: Settings) -> FastAPI:
    """The application with given settings. Nothing is opened before it starts."""
    metrics, (log, lines) = ServerMetrics(), open_log()
    keys = ApiKeyStore(parse_keys(settings.keys), snapshot=settings.key_digest_file, trusted_s=settings.keys_trusted_s)

    limiter = RateLimiter(settings.rate_limit, settings.redis) if settings.rate_limit else None
    tracing = open_tracing(os.environ, log)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            with stdlib_bridge(lines):
                async with lifespan_container(settings, metrics, log, keys) as container:
                    app.state.container = container
                    yield
        finally:
            lines.drain()
        if limiter is not None:
            await limiter.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    app = ApiApplication(
        title="recsys-meta",
        version=__version__,
        summary="Recommendations for newcomers, from their first interactions",
        description="Errors are RFC 9457 problem documents; every answer has an `X-Request-ID`.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.keys = keys
    front: ASGIApp = FastPathMiddleware(app.framework, recommendations.router.routes)
    if limiter is not None:
        front = RateLimitMiddleware(front, keys, limiter)
    if tracing is not None:
        front = TracingMiddleware(front, tracing)
    app.front = RequestContextMiddleware(front, metrics, log, lines)
    problems.install_problem_handlers(app)
    for part in (recommendations, onboarding, adapt, events, entities, models, splits, results, health):
        app.include_router(part.router)
    page.install_docs_page(app)
    app.openapi = lambda: openapi.openapi_document(app)  # type: ignore[method-assign]
    return app
