"""The outermost middleware: request id, bound on the body, access log, metrics, and a 500 for errors nobody handled."""

from __future__ import annotations

import os
import random
import re
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.problem_details import ProblemError, problem_response
from api.http.request_context import UNMATCHED, HttpRequestContext, open_request_context, route_template
from api.telemetry.logging import BufferedLogWriter
from api.telemetry.metrics import ServerMetrics

MAX_BODY_BYTES = 1_000_000
"""The largest request body that is accepted, bytes."""

# A body that is too large is read and discarded up to this size, so that the client gets to read the 413.
_DISCARD_BYTES = 32 * MAX_BODY_BYTES
# Seeded by the system once for each process: a system call for each id costs more than the rest of the id.
_random = random.Random(os.urandom(32))
_ID = re.compile(rb"[A-Za-z0-9._\-]{1,64}")
_SAFE, _UNSTORED = (b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")


class RequestContextMiddleware:
    """ASGI middleware that opens the request context and closes it with a log line and a count.

    Takes the caller's `X-Request-ID` where that is 1 to 64 letters, digits, dots, dashes or underscores, else
    generates one of 32 hex digits.
    """

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, log: Any, lines: BufferedLogWriter) -> None:
        self.app, self.metrics, self.log, self.lines = app, metrics, log, lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        context = open_request_context(scope, _request_id(scope))
        respond = _ResponseStart(send, context)
        try:
            await self.app(scope, _bounded(receive), respond)
        except Exception:
            self.log.error("request failed", request_id=context.request_id, exc_info=True)
            if not context.status:
                problem = ProblemError(500, "The server failed; its log has the reason under this request id")
                await problem_response(problem, scope)(scope, receive, respond)
        self._record(scope, context, time.perf_counter() - start)

    def _record(self, scope: Scope, context: HttpRequestContext, seconds: float) -> None:
        route = route_template(scope)
        # The methods of unmatched requests are the client's to invent, and each would be a label for ever.
        method = scope["method"] if route != UNMATCHED else "any"
        self.metrics.count_request(route, method, context.status, seconds)
        self.lines.write_record(
            "request",
            **context.log_fields(),
            method=method,
            route=route,
            status=context.status,
            ms=round(1000 * seconds, 3),
        )


class _ResponseStart:
    """`send` that adds the headers of every response and writes its status into the context."""

    def __init__(self, send: Send, context: HttpRequestContext) -> None:
        self.send, self.context = send, context

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.context.status = message["status"]
            headers = [*message["headers"], _SAFE, (b"x-request-id", self.context.request_id.encode())]
            # Files of the pages alone say themselves how long they may be kept.
            if b"cache-control" not in dict(headers):
                headers.append(_UNSTORED)
            message["headers"] = headers
        await self.send(message)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value.decode())
    return f"{_random.getrandbits(128):032x}"


def _bounded(receive: Receive) -> Receive:
    """Return a `receive` that raises HTTPException 413, which FastAPI lets through, once a body is too large."""
    size = 0

    async def receive_bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size <= MAX_BODY_BYTES:
            return message
        while message.get("more_body") and size <= _DISCARD_BYTES:
            message = await receive()
            size += len(message.get("body", b""))
        raise HTTPException(413, f"The body is larger than {MAX_BODY_BYTES} bytes; send it in parts")

    return receive_bounded
