"""All pages, and the files that they load."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from api.pages import home, login, playground

_ROUTERS = (home.router, playground.router, login.router)


def install_pages(app: FastAPI) -> None:
    """Add the pages to an application, at `/ui/`."""
    for router in _ROUTERS:
        app.include_router(router)
    app.mount("/ui/static", StaticFiles(directory=Path(__file__).parent / "static"))
