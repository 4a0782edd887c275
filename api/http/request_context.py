"""What every request passes: its id, the bound on its body, its line in the log, and the last net for errors."""

from __future__ import annotations

import os
import random
import re
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.problem_details import ProblemError, render
from api.telemetry.logging import BufferedLogWriter
from api.telemetry.metrics import ServerMetrics

MOST_BYTES = 1_000_000
"""The largest body that is accepted."""

_DRAINED = 32 * MOST_BYTES  # read and thrown away, so that the client gets to read the answer
_random = random.Random(os.urandom(32))  # unlike any other process's; a call of the system each time costs more
_ID = re.compile(rb"[A-Za-z0-9._\-]{1,64}")
_NAMED = ("request_id", "actor", "trace_id")
_SAFE = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


class RequestContextMiddleware:
    """ASGI middleware. Takes the caller's `X-Request-ID` where it is harmless, else makes one."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, log: Any, lines: BufferedLogWriter) -> None:
        self.app, self.metrics, self.log, self.lines = app, metrics, log, lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        reply = _ResponseHeaders(send, request_id)
        try:
            await self.app(scope, _bounded(scope, receive), reply)
        except Exception:
            self.log.error("request failed", request_id=request_id, exc_info=True)
            if not reply.status:
                problem = ProblemError(500, "The server failed; its log has the reason under this request id")
                await render(problem, request_id, scope["path"])(scope, receive, reply)
        self._note(scope, reply.status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if route != "unmatched" else "any"  # or a client could make labels without end
        self.metrics.count_event(route, method, status, seconds)
        named = {name: value for name in _NAMED if (value := scope["state"].get(name)) is not None}
        self.lines.write_record(
            "request",
            **named,
            method=method,
            route=route,
            status=status,
            ms=round(1000 * seconds, 3),
        )


class _ResponseHeaders:
    """Adds headers to the answer and remembers its status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.send, self.request_id, self.status = send, request_id, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *_SAFE, (b"x-request-id", self.request_id.encode())]
        await self.send(message)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value.decode())
    return f"{_random.getrandbits(128):032x}"


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """`receive` that raises 413 (an HTTPException, which FastAPI lets through) once a body is too large."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size <= MOST_BYTES:
            return message
        while message.get("more_body") and size <= _DRAINED:
            message = await receive()
            size += len(message.get("body", b""))
        raise HTTPException(413, f"The body is larger than {MOST_BYTES} bytes; send it in parts")

    return bounded
