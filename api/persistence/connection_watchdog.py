"""Cutting the connection of a call that hangs.

A server that took a statement and never answers holds the calling thread for ever: no time-out of PostgreSQL's client
library ends that wait. Shutting down the socket does, and the thread gets an error as if the server had gone away.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import weakref
from typing import Any

from sqlalchemy import Engine, event


class ConnectionWatchdog:
    """The connections of an engine, by the thread that uses them. Does nothing for SQLite, which has no line."""

    def __init__(self, engine: Engine) -> None:
        self._every: weakref.WeakSet[Any] = weakref.WeakSet()
        self._held: dict[int, tuple[Any, float]] = {}
        if engine.dialect.name == "postgresql":
            event.listen(engine, "connect", self._made)
            event.listen(engine, "checkout", self._taken)
            event.listen(engine, "checkin", self._given)

    def cut(self, thread: int) -> None:
        """End what a thread waits for. Where it holds no connection it is still trying one: then all that nobody
        holds and that wait for an answer are cut."""
        held = self._held.get(thread)
        if held is not None:
            _shut(held[0])
            return
        taken = {id(connection) for connection, _ in list(self._held.values())}
        for connection in list(self._every):
            if id(connection) not in taken and _waits(connection):
                _shut(connection)

    def cut_older(self, seconds: float) -> None:
        """End what waits for an answer on a connection that was taken longer ago than that."""
        since = time.monotonic() - seconds
        for connection, taken in list(self._held.values()):
            if taken < since and _waits(connection):
                _shut(connection)

    def _made(self, connection: Any, record: Any) -> None:
        self._every.add(connection)

    def _taken(self, connection: Any, record: Any, proxy: Any) -> None:
        self._held[threading.get_ident()] = connection, time.monotonic()

    def _given(self, connection: Any, record: Any) -> None:
        self._held.pop(threading.get_ident(), None)


def _waits(connection: Any) -> bool:
    """Whether a statement is under way."""
    return bool(connection.pgconn.transaction_status == 1)  # PQTRANS_ACTIVE


def _shut(connection: Any) -> None:
    # Where it was closed meanwhile, that is what was wanted.
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.pgconn.socket)) as line:
        line.shutdown(socket.SHUT_RDWR)
