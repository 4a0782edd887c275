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

from recsys_meta.core.json_text import to_json

_FLUSH_INTERVAL_S = 0.1
# Writes of up to so many bytes to a pipe are atomic (POSIX); not every system defines the constant.
_ATOMIC_BYTES = getattr(select, "PIPE_BUF", 512)


class BufferedLogWriter:
    """Logger that writes lines to a binary stream, those of a tenth of a second together.

    A system call for each request would cost as much as the rest of its line. Lines of level warning or above are
    written at once. Safe for threads. A stream that cannot be written loses its lines and fails no request.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._lines, self._lock = out, list[bytes](), threading.Lock()
        self._scheduled = False

    def info(self, line: bytes) -> None:
        """Buffer a line; without a running event loop, write it."""
        with self._lock:
            self._lines.append(line)
        if self._scheduled:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.drain()
            return
        self._scheduled = True
        loop.call_later(_FLUSH_INTERVAL_S, self.drain)

    def error(self, line: bytes) -> None:
        """Write a line, after all that are buffered."""
        with self._lock:
            self._lines.append(line)
        self.drain()

    debug, warning, critical, exception = info, error, error, error

    def write_record(self, event: str, **fields: Any) -> None:
        """Buffer a record of level info, without the cost of structlog, which every request would pay."""
        self.info(_serialize({**fields, "event": event, "level": "info", "timestamp": datetime.now(UTC)}))

    def drain(self) -> None:
        """Write the buffered lines."""
        with self._lock:
            self._scheduled, lines, self._lines = False, self._lines, []
            with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
                for chunk in _chunks(lines):
                    self._out.write(chunk)
                    self._out.flush()


class StdlibBridgeHandler(logging.Handler):
    """Handler that turns records of Python's `logging`, level warning or above, into lines of the same form."""

    def __init__(self, lines: BufferedLogWriter) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        level, now = record.levelname.lower(), datetime.now(UTC)
        self._lines.error(_serialize({"event": record.getMessage(), "level": level, "timestamp": now}))


@contextlib.contextmanager
def stdlib_bridge(lines: BufferedLogWriter) -> Iterator[None]:
    """Write warnings of the library, such as the store's of a server that is unavailable, to `lines` meanwhile."""
    logger, handler = logging.getLogger("recsys_meta"), StdlibBridgeHandler(lines)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def open_log() -> tuple[Any, BufferedLogWriter]:
    """Return a structlog logger on standard output, and its writer, which the caller drains at the end.

    The configuration is the logger's own; nothing global is touched.
    """
    lines = BufferedLogWriter(sys.stdout.buffer)
    logger = structlog.wrap_logger(
        lines, processors=[_render], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO)
    )
    # Bound once: a logger that binds itself at every line takes half the time again.
    return logger.bind(), lines


def _chunks(lines: list[bytes]) -> Iterator[bytes]:
    """Join lines into chunks of an atomic write: within a larger one, another process may write between two halves."""
    chunk, size = list[bytes](), 0
    for line in lines:
        if chunk and size + len(line) >= _ATOMIC_BYTES:
            yield b"".join(chunk)
            chunk, size = [], 0
        chunk += (line, b"\n")
        size += len(line) + 1
    if chunk:
        yield b"".join(chunk)


def _render(logger: Any, level: str, event: MutableMapping[str, Any]) -> bytes:
    """Render an event, in one processor: each further one is a cost of every line."""
    event["level"], event["timestamp"] = level, datetime.now(UTC)
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, level, event)
    return _serialize(event)


def _serialize(event: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(event, default=str, option=orjson.OPT_UTC_Z)
    except orjson.JSONEncodeError:  # half a surrogate pair in the message of an exception, say
        return json.dumps(to_json(event), default=str).encode()
