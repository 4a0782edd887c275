"""The application. Start it with `uvicorn --factory api.app:create_app`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from api import openapi, problems
from api.gate import Gate
from api.house import open_house
from api.logs import new_log
from api.metrics import Metrics
from api.routes import adapt, entities, events, health, models, recommendations, results
from api.security import parse_keys
from recsys_meta import __version__
from recsys_meta.store.settings import Settings


def create_app() -> FastAPI:
    """The application with the settings of the environment. Raises ConfigError for keys that cannot be read."""
    return build(Settings())


def build(settings: Settings) -> FastAPI:
    """The application with given settings. Nothing is opened before it starts."""
    metrics, log = Metrics(), new_log()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_house(settings, metrics, log) as house:
            app.state.house = house
            yield

    app = FastAPI(
        title="recsys-meta",
        version=__version__,
        summary="Recommendations for newcomers, from their first interactions",
        description="Errors are RFC 9457 problem documents; every answer has an `X-Request-ID`.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.keys = parse_keys(settings.keys)
    app.add_middleware(Gate, metrics=metrics, log=log)
    problems.install(app)
    for part in (recommendations, adapt, events, entities, models, results, health):
        app.include_router(part.router)
    app.add_api_route("/", _home, include_in_schema=False)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    return app


async def _home() -> RedirectResponse:
    return RedirectResponse("/docs")
