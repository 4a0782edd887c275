"""The hot calls, past the framework: its routing and its dependencies cost more than an answer from a cache.

FastAPI has the same routes and describes them in the OpenAPI document; who asks by another method, or for a path
spelled otherwise, meets them there.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http import problem_details as problems


class FastPathMiddleware:
    """ASGI middleware. `routes`: those of a router whose endpoints want nothing but the request."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self.app = app
        self._ways = {
            (method, way.path): way for way in routes if isinstance(way, APIRoute) for method in way.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        way = self._ways.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if way is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = way
        try:
            response = await way.endpoint(Request(scope, receive))
        except Exception as error:
            response = problems.error_response(scope, error)
            if response is None:
                raise
        await response(scope, receive, send)
