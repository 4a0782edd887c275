"""HTTP protocol of uvicorn with bounds on headers, on the time that a request may take to arrive and an answer to be
read, and on the number of connections; a request to change the protocol is answered as if it did not ask for that.

uvicorn itself keeps all headers that come, for as long as they come: one connection could take all the memory, and a
few thousand slow or silent ones could keep everybody else out. Of a request with `Upgrade` its parser skips the body,
and would take it for the next request.
"""

from __future__ import annotations

import heapq
import logging
import time
from asyncio import BaseTransport, TimerHandle
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import httptools
import orjson
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from api.http.connection_limit import connection_limit
from api.http.problem_details import MEDIA_TYPE, ProblemError, problem_document

MAX_HEAD_BYTES = 64 * 1024
"""Bound on the bytes before a body (request line and headers) and on those after one (trailers)."""

ARRIVAL_TIMEOUT_S = 30.0
"""Time a request may take to arrive, from its first byte to its last, and a new connection may be silent, seconds."""

READING_TIMEOUT_S = 30.0
"""Time for which a client may leave the rest of an answer unread, seconds."""

LINGER_S = 2.0
"""Time the connection of a refused request stays open, so that its sender gets to read why, seconds."""

_HEADER_OVERHEAD = 4  # bytes around a name and a value: a colon, a space, the end of the line
_UPGRADE_FIELDS = (b"upgrade", b"http2-settings")
_WARNING_INTERVAL_S = 60.0
_EVICTED_SHARE = 32  # one of so many connections is closed when there are too many: looking for them costs time

log = logging.getLogger("recsys_meta.http")


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. Refuses headers that are too large, complete or not (431), a request that does not arrive in
    time (408), and bytes that are no HTTP (400). Closes connections that are silent from the start, and those whose
    answers nobody reads; where there are too many connections, the oldest that wait for nothing (else 503).

    Incomplete input is counted by reads: the bytes since the read that last completed a head, a chunk of a body or a
    request. So input needs no scanning while a line has no end. A request that comes in one read, as nearly all do,
    costs no timer.
    """

    _last_warning = float("-inf")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_bytes = 0
        self._complete_bytes = 0  # up to and with the read that last completed something
        self._arriving = self._refused = False
        # uvicorn's `cycle` is the newest request, which may wait for the response of this one (pipelining).
        self._active_cycle: RequestResponseCycle | None = None
        self._timer: TimerHandle | None = None
        self._reading_timer: TimerHandle | None = None
        self._since = self.loop.time()  # of the last request's begin or end

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._timer = self.loop.call_later(ARRIVAL_TIMEOUT_S, self._close_silent)
        if len(self.connections) > connection_limit():
            self._make_room()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._read_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._refused:
            return
        if self._read_bytes - self._complete_bytes > MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE)
        elif self._timer is None and self._arriving:
            self._timer = self.loop.call_later(ARRIVAL_TIMEOUT_S, self._on_timeout)
        elif self._timer is None and self.is_idle:  # empty lines between requests
            self._timer = self.loop.call_later(self.timeout_keep_alive, self._close_silent)

    @property
    def is_idle(self) -> bool:
        """Return whether no request is arriving or being answered."""
        cycle = self._active_cycle
        return not self._arriving and (cycle is None or cycle.response_complete)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_reading_timer()
        if self._active_cycle is not None:
            _disconnect(self._active_cycle)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading_timer = self.loop.call_later(READING_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_reading_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        self._close_silent()

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        super().on_response_complete()
        if self.transport.is_closing() and self._reading_timer is None:
            # Closing waits until all is sent, for ever where nobody reads it.
            self._reading_timer = self.loop.call_later(READING_TIMEOUT_S, self.transport.abort)

    def on_message_begin(self) -> None:
        self._stop_timer()
        self._arriving, self._since = True, self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        self._complete_bytes = self._read_bytes
        if _head_size(self.url, self.headers) > MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE)
        elif not self.parser.should_upgrade():  # else it begins once the head was read again
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            self._complete_bytes = self._read_bytes
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused and not self.parser.should_upgrade():
            self._stop_timer()
            self._complete_bytes = self._read_bytes
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(_MALFORMED)

    def _parse(self, data: bytes) -> None:
        """Feed the parser. A head that asks for another protocol is read again without that wish, by a new parser: the
        old one skips the body (RFC 9110, 7.8: a server may ignore the field)."""
        rest = memoryview(data)
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self._refused:
                    return
                method, version = self.parser.get_method(), self.parser.get_http_version()
                if method == b"CONNECT":  # asks for a tunnel, whatever its headers say
                    self._refuse(_NO_TUNNEL)
                    return
                head = b"".join(_without_upgrade(method, self.url, version, self.headers))
                self._stop_timer()
                self.parser = _request_parser(self)
                rest = rest[upgrade.args[0] :]
                self._parse(head)
                if self._refused or self.parser is None:
                    return
            except httptools.HttpParserError:
                self._refuse(_MALFORMED)
                return

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._active_cycle = cycle
        super()._start_asgi_task(cycle, app)

    def _stop_timer(self) -> None:
        self._arriving = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_reading_timer(self) -> None:
        if self._reading_timer is not None:
            self._reading_timer.cancel()
            self._reading_timer = None

    def _close_silent(self) -> None:
        """Close a connection on which nothing is under way; what was answered and is still unread is lost."""
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.abort() if self.transport.get_write_buffer_size() else self.transport.close()

    def _make_room(self) -> None:
        """Close the connections that have waited longest, idle ones first; refuse this one where all are answered."""
        candidates = [one for one in _bounded_connections(self.connections) if one is not self and one.may_be_closed]
        count = max(1, len(self.connections) // _EVICTED_SHARE)
        oldest = heapq.nsmallest(count, candidates, key=lambda one: (not one.is_idle, one._since))
        for connection in oldest:
            connection.transport.abort()
        if not oldest:
            self._refuse(_TOO_MANY)
        now = time.monotonic()
        if now - BoundedHttpProtocol._last_warning > _WARNING_INTERVAL_S:
            BoundedHttpProtocol._last_warning = now
            log.warning(
                "too many connections: %d, of at most %d; those that wait longest are closed",
                len(self.connections),
                connection_limit(),
            )

    @property
    def may_be_closed(self) -> bool:
        """Return whether no request is being answered: one may be arriving."""
        cycle = self._active_cycle
        return cycle is None or cycle.response_complete or (self._arriving and cycle.scope is self.scope)

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
        self._timer = self.loop.call_later(LINGER_S, self.transport.abort)


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Tell the application that the client reads no more."""
    cycle.disconnected = True
    cycle.message_event.set()


def _bounded_connections(connections: Iterable[Any]) -> Iterator[BoundedHttpProtocol]:
    return (one for one in connections if isinstance(one, BoundedHttpProtocol) and not one.transport.is_closing())


def _request_parser(protocol: BoundedHttpProtocol) -> httptools.HttpRequestParser:
    """Make a parser as uvicorn does: requests that were sent after one that closes the connection are no error."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _without_upgrade(
    method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]
) -> Iterator[bytes]:
    """Write a head that was read once more, without the wish for another protocol and the fields that belong to it."""
    yield b"%s %s HTTP/%s\r\n" % (method, url, version.encode())
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            kept = b", ".join(o for o in options if o.lower() not in _UPGRADE_FIELDS)
            if kept:
                yield b"connection: %s\r\n" % kept
        elif name not in _UPGRADE_FIELDS:
            yield b"%s: %s\r\n" % (name, value)
    yield b"\r\n"


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


_NO_TUNNEL = _response(ProblemError(405, "This server opens no tunnels: the method CONNECT is not supported"))
_TOO_MANY = _response(ProblemError(503, "Too many connections; try again later"))
_MALFORMED = _response(ProblemError(400, "The request cannot be read as HTTP"))
_TOO_LARGE = _response(ProblemError(431, f"The headers are larger than {MAX_HEAD_BYTES} bytes"))
_TOO_LATE = _response(ProblemError(408, f"The request did not arrive within {ARRIVAL_TIMEOUT_S:.0f} seconds"))
