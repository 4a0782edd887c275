"""ASGI application: middlewares, routes and lifespan. Start it with `uvicorn --factory api.app:create_app`."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from api.container import lifespan_container
from api.http.api_keys import ApiKeyStore, parse_keys
from api.http.cross_site import CrossSiteMiddleware
from api.http.fast_path import FastPathMiddleware
from api.http.problem_details import install_problem_handlers
from api.http.rate_limit import RateLimiter, RateLimitMiddleware
from api.http.request_context_middleware import RequestContextMiddleware
from api.http.tracing import TracingMiddleware, open_tracing
from api.pages.router import install_pages
from api.routes import (
    adapt,
    entities,
    events,
    health,
    items,
    model_lifecycle,
    models,
    onboarding,
    recommendations,
    tracking,
    traffic_splits,
)
from api.schemas.docs_page import install_docs_page
from api.schemas.openapi import openapi_document
from api.telemetry.logging import open_log, stdlib_bridge
from api.telemetry.metrics import ServerMetrics
from recsys_meta import __version__
from recsys_meta.store.settings import Settings

_ROUTERS = (
    recommendations.router,
    onboarding.router,
    adapt.router,
    events.router,
    entities.router,
    items.router,
    models.router,
    model_lifecycle.router,
    traffic_splits.router,
    tracking.router,
    health.router,
)


class ApiApplication(FastAPI):
    """FastAPI with ASGI middlewares in front of it.

    Not FastAPI's own list of middlewares: that lies behind its exception handling, and a request that a middleware
    answers by itself, as the fast path does, would pay for the framework all the same.
    """

    front: ASGIApp
    """The outermost middleware."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.front(scope, receive, send)

    async def framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run FastAPI itself, as the innermost application."""
        await super().__call__(scope, receive, send)


def create_app() -> FastAPI:
    """Build the application with the settings of the environment, in a process of its own.

    Raises ConfigError for a setting that cannot be read.
    """
    # Imported modules stay for good. A full collection that walks them stops all responses for a quarter of a second.
    gc.collect()
    gc.freeze()
    return build_app(Settings())


def build_app(settings: Settings) -> FastAPI:
    """Build the application. It opens no connection before its lifespan starts.

    Raises ConfigError for keys or a rate limit that cannot be read.
    """
    metrics, (log, lines) = ServerMetrics(), open_log()
    keys = ApiKeyStore(parse_keys(settings.keys), snapshot=settings.key_digest_file, trusted_s=settings.keys_trusted_s)
    limiter = RateLimiter(settings.rate_limit, settings.redis) if settings.rate_limit else None
    tracer = open_tracing(os.environ, log)

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
        if tracer is not None:
            await asyncio.to_thread(tracer.close)

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
    # From the innermost to the outermost; a request passes them the other way.
    front: ASGIApp = FastPathMiddleware(app.framework, recommendations.router.routes)
    front = CrossSiteMiddleware(front)
    if limiter is not None:
        front = RateLimitMiddleware(front, keys, limiter)
    if tracer is not None:
        front = TracingMiddleware(front, tracer)
    app.front = RequestContextMiddleware(front, metrics, log, lines)
    install_problem_handlers(app)
    for router in _ROUTERS:
        app.include_router(router)
    install_pages(app)
    install_docs_page(app)
    app.openapi = lambda: openapi_document(app)  # type: ignore[method-assign]
    return app
