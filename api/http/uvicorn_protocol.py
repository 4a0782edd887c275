"""HTTP protocol of uvicorn with bounds on the size of headers and on the time that a request may take to arrive.

uvicorn itself keeps all headers that come, for as long as they come: one connection could take all the memory, and a
few thousand slow ones could keep everybody else out.
"""

from __future__ import annotations

from asyncio import TimerHandle
from itertools import chain
from typing import Any

import orjson
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from api.http.problem_details import MEDIA_TYPE, ProblemError, problem_document

MAX_HEAD_BYTES = 64 * 1024
"""Bound on the bytes before a body (request line and headers) and on those after one (trailers)."""

ARRIVAL_TIMEOUT_S = 30.0
"""Time a request may take to arrive, from its first byte to its last, seconds."""

LINGER_S = 2.0
"""Time the connection of a refused request stays open, so that its sender gets to read why, seconds."""

_HEADER_OVERHEAD = 4  # bytes around a name and a value: a colon, a space, the end of the line


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. Refuses headers that are too large, complete or not (431), a request that does not arrive in
    time (408), and bytes that are no HTTP (400).

    Incomplete input is counted by reads: the bytes since the read that last completed a head, a chunk of a body or a
    request. So input needs no scanning while a line has no end. A request that comes in one read, as nearly all do,
    costs no timer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_bytes = 0
        self._complete_bytes = 0  # up to and with the read that last completed something
        self._arriving = self._refused = False
        # uvicorn's `cycle` is the newest request, which may wait for the response of this one (pipelining).
        self._active_cycle: RequestResponseCycle | None = None
        self._timer: TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._read_bytes += len(data)
        super().data_received(data)
        if self._read_bytes - self._complete_bytes > MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE)
        elif self._arriving and self._timer is None:
            self._timer = self.loop.call_later(ARRIVAL_TIMEOUT_S, self._on_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._active_cycle is not None:
            _disconnect(self._active_cycle)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._arriving = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        self._complete_bytes = self._read_bytes
        if _head_size(self.url, self.headers) > MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            self._complete_bytes = self._read_bytes
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            self._stop_timer()
            self._complete_bytes = self._read_bytes
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(_MALFORMED)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._active_cycle = cycle
        super()._start_asgi_task(cycle, app)

    def _stop_timer(self) -> None:
        self._arriving = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self.flow.read_paused or self._earlier_cycle():  # the server is what delays the request
            self._timer = self.loop.call_later(ARRIVAL_TIMEOUT_S, self._on_timeout)
        else:
            self._refuse(_TOO_LATE)

    def _refuse(self, response: bytes) -> None:
        """Read nothing more, send the reason where no response has begun, and close."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._stop_timer()
        if earlier := self._earlier_cycle():
            earlier.keep_alive = False  # its response is sent whole, and is the last
            return
        active = self._active_cycle
        cycle = active if active is not None and active.scope is self.scope else None
        if cycle is not None:
            _disconnect(cycle)
        if cycle is not None and cycle.response_started:
            self.transport.close()
        else:
            self._send_and_linger(response)

    def _earlier_cycle(self) -> RequestResponseCycle | None:
        """Return the request that is being answered, unless it is the one that is arriving."""
        cycle = self._active_cycle
        return None if cycle is None or cycle.response_complete or cycle.scope is self.scope else cycle

    def _send_and_linger(self, response: bytes) -> None:
        """Send a response and close later: closing while input is unread resets the connection and loses it."""
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.transport.write(response)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self.transport.close)


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Tell the application that the client reads no more."""
    cycle.disconnected = True
    cycle.message_event.set()


def _head_size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    """Return the bytes of a head, to within a few of those received."""
    return len(url) + sum(map(len, chain.from_iterable(headers))) + _HEADER_OVERHEAD * len(headers)


def _response(problem: ProblemError) -> bytes:
    document = orjson.dumps(problem_document(problem))
    headers = {
        "content-type": MEDIA_TYPE,
        "content-length": str(len(document)),
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        "connection": "close",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[problem.status] + lines.encode() + b"\r\n" + document


_MALFORMED = _response(ProblemError(400, "The request cannot be read as HTTP"))
_TOO_LARGE = _response(ProblemError(431, f"The headers are larger than {MAX_HEAD_BYTES} bytes"))
_TOO_LATE = _response(ProblemError(408, f"The request did not arrive within {ARRIVAL_TIMEOUT_S:.0f} seconds"))
