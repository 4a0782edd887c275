"""HTTP as uvicorn reads it, with a bound on headers and on the time that a request may take to arrive.

uvicorn by itself keeps all headers that come, for as long as they come: one connection could take all the memory, and
a few thousand that say little could keep out everybody else.
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
"""The most that may come before a body, or after one, bytes."""

ARRIVAL_TIMEOUT_S = 30.0
"""How long a request may take to arrive, from its first byte to its last, seconds."""

LINGER_S = 2.0
"""How long a refused caller may go on sending, so that it gets to read why, seconds."""

_SIGNS = 4  # bytes around a name and a value: a colon, a space, the end of the line


class BoundedHttpProtocol(HttpToolsProtocol):
    """A connection. Refuses (431) headers that are too large, whole or not, (408) what does not arrive in time, and
    (400) what is no HTTP.

    What is not whole is counted by reads: those since the one that last ended something, be it a head, a piece of a
    body or a request. So nothing is to be looked at while a line has no end. A request that comes in one read, as
    nearly all do, costs no timer.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._read = self._used = 0  # bytes read so far, and up to the read that last ended something
        self._arriving = self._refused = False
        self._answering: RequestResponseCycle | None = None  # `cycle` is the last that came, and may wait for this one
        self._timer: TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._read += len(data)
        super().data_received(data)
        if self._read - self._used > MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE)
        elif self._arriving and self._timer is None:
            self._timer = self.loop.call_later(ARRIVAL_TIMEOUT_S, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        if self._answering is not None:
            _leave(self._answering)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._arriving = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        self._used = self._read
        if _size(self.url, self.headers) > MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            self._used = self._read
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            self._stop()
            self._used = self._read
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(_MALFORMED)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _stop(self) -> None:
        self._arriving = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.flow.read_paused or self._earlier():  # it is us who are late
            self._timer = self.loop.call_later(ARRIVAL_TIMEOUT_S, self._late)
        else:
            self._refuse(_TOO_LATE)

    def _refuse(self, answer: bytes) -> None:
        """Take nothing more, say why where that can be said, and close."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._stop()
        if earlier := self._earlier():
            earlier.keep_alive = False  # its answer shall come whole, and is the last
            return
        own = self._answering if self._answering and self._answering.scope is self.scope else None
        if own is not None:
            _leave(own)
        if own is not None and own.response_started:
            self.transport.close()
        else:
            self._say(answer)

    def _earlier(self) -> RequestResponseCycle | None:
        """What is being answered, where that is not the request that comes now."""
        found = self._answering
        return None if found is None or found.response_complete or found.scope is self.scope else found

    def _say(self, answer: bytes) -> None:
        """To close at once would take back an answer that lies behind bytes that nobody has read."""
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.transport.write(answer)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self.transport.close)


def _leave(cycle: RequestResponseCycle) -> None:
    """Tell the application that nobody reads on."""
    cycle.disconnected = True
    cycle.message_event.set()


def _size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    """The bytes of a head, about as they came."""
    return len(url) + sum(map(len, chain.from_iterable(headers))) + _SIGNS * len(headers)


def _answer(problem: ProblemError) -> bytes:
    document = orjson.dumps(problem_document(problem))
    named = {
        "content-type": MEDIA_TYPE,
        "content-length": str(len(document)),
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        "connection": "close",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return STATUS_LINE[problem.status] + lines.encode() + b"\r\n" + document


_MALFORMED = _answer(ProblemError(400, "The request cannot be read as HTTP"))
_TOO_LARGE = _answer(ProblemError(431, f"The headers are larger than {MAX_HEAD_BYTES} bytes"))
_TOO_LATE = _answer(ProblemError(408, f"The request did not arrive within {ARRIVAL_TIMEOUT_S:.0f} seconds"))
