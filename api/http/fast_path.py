"""The hot routes, called without FastAPI: its routing and dependencies cost more than a response from a cache.

FastAPI has the same routes and describes them in the OpenAPI document; a request with another method, or with the path
spelled otherwise, reaches them there.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.problem_details import error_response


class FastPathMiddleware:
    """ASGI middleware. `routes`: those of a router whose endpoints take nothing but the request."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self.app = app
        self._routes = {
            (method, route.path): route
            for route in routes
            if isinstance(route, APIRoute)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        try:
            response = await route.endpoint(Request(scope, receive))
        except Exception as error:
            response = error_response(scope, error)
            if response is None:
                raise
        await response(scope, receive, send)
