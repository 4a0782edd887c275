"""All pages, and the files that they load, at `/ui/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import RedirectResponse
from starlette.staticfiles import StaticFiles

from api.http.problem_details import ProblemError
from api.pages import adaptations, data_sets, entities, home, items, login, models, playground, runs
from api.pages.page_context import ReadContext
from api.pages.page_route import PageRoute

_ROUTERS = (
    home.router,
    runs.router,
    models.router,
    adaptations.router,
    entities.router,
    items.router,
    data_sets.router,
    playground.router,
    login.router,
)
_fallback = APIRouter(route_class=PageRoute, include_in_schema=False)


class PageFiles(StaticFiles):
    """Files that a browser keeps and asks for anew only if they have changed, by their ETag."""

    def file_response(self, *given: Any, **options: Any) -> Response:
        """Return a file, or 304 for one that the browser has."""
        response = super().file_response(*given, **options)
        response.headers["cache-control"] = "no-cache"
        return response


def install_pages(app: FastAPI) -> None:
    """Add the pages to an application."""
    for router in _ROUTERS:
        app.include_router(router)
    app.mount("/ui/static", PageFiles(directory=Path(__file__).parent / "static"))
    app.include_router(_fallback)


@_fallback.get("/ui")
async def _redirect_home() -> Response:
    return RedirectResponse("ui/")


@_fallback.get("/ui/{path:path}")
async def _show_nothing(page: ReadContext) -> Response:
    raise ProblemError(404, "There is no such page")
