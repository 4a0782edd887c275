"""Structured logs: one JSON line for each request, with its id and its route, never its body, path or key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import select
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, BinaryIO

import orjson
import structlog

_GATHER_S = 0.1
_WHOLE = getattr(select, "PIPE_BUF", 512)  # bytes that a pipe takes in one piece; not every system says


class BufferedLogWriter:
    """Where lines go: to a file, those that came within a tenth of a second together, since a call of the system for
    each request costs as much as the rest of its line. What tells of trouble is written at once.

    Safe for threads. A stream that cannot be written costs its lines, and nobody an answer.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._lines, self._lock = out, list[bytes](), threading.Lock()
        self._awaited = False

    def info(self, line: bytes) -> None:
        """Take a line; where no event loop runs, write it."""
        with self._lock:
            self._lines.append(line)
        if self._awaited:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.drain()
            return
        self._awaited = True
        loop.call_later(_GATHER_S, self.drain)

    def error(self, line: bytes) -> None:
        """Write a line, and all that wait."""
        with self._lock:
            self._lines.append(line)
        self.drain()

    debug, warning, critical, exception = info, error, error, error

    def write_record(self, event: str, **fields: Any) -> None:
        """The same as `info` of the logger, past it: every request pays for it."""
        self.info(_written({**fields, "event": event, "level": "info", "timestamp": datetime.now(UTC)}))

    def drain(self) -> None:
        """Write what waits."""
        with self._lock:
            self._awaited, lines, self._lines = False, self._lines, []
            with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
                for part in _parts(lines):
                    self._out.write(part)
                    self._out.flush()


class StdlibBridgeHandler(logging.Handler):
    """What the store says, through Python's own logging, of a server that is away: as lines like all others."""

    def __init__(self, lines: BufferedLogWriter) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        level, now = record.levelname.lower(), datetime.now(UTC)
        self._lines.error(_written({"event": record.getMessage(), "level": level, "timestamp": now}))


@contextlib.contextmanager
def stdlib_bridge(lines: BufferedLogWriter) -> Iterator[None]:
    """While it lasts, what the store says is among the lines."""
    store, handler = logging.getLogger("recsys_meta"), StdlibBridgeHandler(lines)
    store.addHandler(handler)
    try:
        yield
    finally:
        store.removeHandler(handler)


def _parts(lines: list[bytes]) -> Iterator[bytes]:
    """Lines together, as many as a pipe takes whole: of more, other processes' lines may come between the halves."""
    part, size = list[bytes](), 0
    for line in lines:
        if part and size + len(line) >= _WHOLE:
            yield b"".join(part)
            part, size = [], 0
        part += (line, b"\n")
        size += len(line) + 1
    if part:
        yield b"".join(part)


def open_log() -> tuple[Any, BufferedLogWriter]:
    """A logger of its own configuration, nothing global is touched; and its lines, on standard output, for whoever
    closes it to drain."""
    lines = BufferedLogWriter(sys.stdout.buffer)
    made = structlog.wrap_logger(
        lines, processors=[_line], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO)
    )
    # Bound at once: left to be bound at each line, it would take half the time again.
    return made.bind(), lines


def _line(logger: Any, level: str, event: MutableMapping[str, Any]) -> bytes:
    """One processor for all: every request pays for each of them."""
    event["level"], event["timestamp"] = level, datetime.now(UTC)
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, level, event)
    return _written(event)


def _written(event: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(event, default=str, option=orjson.OPT_UTC_Z)
    except orjson.JSONEncodeError:  # half a surrogate pair in the message of an exception, say
        return json.dumps(event, default=str).encode()
