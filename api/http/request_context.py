"""The context of an HTTP request: one object in the ASGI scope, read by middlewares, authorization, audit and log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

UNMATCHED = "unmatched"
"""The route label of a request whose path has no route."""

_SCOPE_KEY = "recsys_meta.request_context"


@dataclass(slots=True)
class HttpRequestContext:
    """Identity and outcome of one HTTP request.

    `request_id` is the `X-Request-ID` of the caller or a generated one. `actor` names the API key (name and public id)
    once authorization has accepted it. `trace_id` holds the 32 hex digits of the OpenTelemetry trace, where spans are
    recorded. `status` is the HTTP status once the response has started, 0 before.
    """

    request_id: str
    actor: str | None = None
    trace_id: str | None = None
    status: int = 0

    def log_fields(self) -> dict[str, str]:
        """Return the ids that are known, under their names in the log."""
        fields = {"request_id": self.request_id}
        if self.actor is not None:
            fields["actor"] = self.actor
        if self.trace_id is not None:
            fields["trace_id"] = self.trace_id
        return fields


def open_request_context(scope: Scope, request_id: str) -> HttpRequestContext:
    """Create the context of a request and attach it to the ASGI scope, where `request_context` finds it."""
    context = scope[_SCOPE_KEY] = HttpRequestContext(request_id)
    return context


def request_context(scope: Mapping[str, Any]) -> HttpRequestContext:
    """Return the context of the request that an ASGI scope belongs to. Raises KeyError where none was opened."""
    context: HttpRequestContext = scope[_SCOPE_KEY]
    return context


def route_template(scope: Mapping[str, Any]) -> str:
    """Return the path template of the matched route, such as `/v1/models/{name}`, or `UNMATCHED`.

    Labels, logs and spans hold the template, never the path: paths hold ids of entities, and have no bound in number.
    """
    return getattr(scope.get("route"), "path", UNMATCHED)
