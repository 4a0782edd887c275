"""Routes of the framework that look at the key before the body, and at the size of what a body holds before its values.

FastAPI reads and parses a body before it asks any dependency, the one that checks the key included.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from api.http.authorization import HEADER, authorize, required_scope
from api.http.request_bodies import beside_loop, check_json_type, check_structure

_BODY_METHODS = frozenset(("POST", "PUT", "PATCH"))


class GuardedRoute(APIRoute):
    """Route whose `require` dependency is asked before the body is read; its dependencies are resolved as ever after.

    Each POST, PUT and PATCH needs the media type of JSON, even without a body.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that FastAPI calls."""
        handle = super().get_route_handler()
        scope = _scope_of(self.dependant)
        has_body = bool(_BODY_METHODS & set(self.methods or ()))

        async def guarded(request: Request) -> Response:
            if scope is not None:
                authorize(request.app.state.keys, request.scope, request.headers.get(HEADER), scope)
            if has_body:
                check_json_type(request)
                raw = await request.body()
                await beside_loop(raw, lambda: check_structure(raw))
            return await handle(request)

        return guarded


def _scope_of(dependant: Dependant) -> str | None:
    """Return the scope that a route requires, by itself or through its router; None for a public one."""
    scopes = [required_scope(dependant.call)] if dependant.call is not None else []
    scopes += [_scope_of(one) for one in dependant.dependencies]
    return next((scope for scope in scopes if scope is not None), None)
