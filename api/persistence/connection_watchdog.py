"""Cutting the PostgreSQL connection of a call that hangs.

A server that took a statement and never answers holds the calling thread for ever: no time-out of libpq ends that
wait. Shutting down the socket does, and the thread gets the error of a server that has gone away.
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
    """Connections of an engine, by the thread that uses them. Does nothing for SQLite, which has no socket."""

    def __init__(self, engine: Engine) -> None:
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._in_use: dict[int, tuple[Any, float]] = {}  # by thread; the time of the checkout
        if engine.dialect.name == "postgresql":
            event.listen(engine, "connect", self._on_connect)
            event.listen(engine, "checkout", self._on_checkout)
            event.listen(engine, "checkin", self._on_checkin)

    def cut(self, thread: int) -> None:
        """End the wait of a thread, by its identifier.

        A thread without a connection is still testing one that the pool gave it: then all connections are cut that no
        thread holds and that wait for an answer.
        """
        checkout = self._in_use.get(thread)
        if checkout is not None:
            _shut_down(checkout[0])
            return
        in_use = {id(connection) for connection, _ in list(self._in_use.values())}
        for connection in list(self._connections):
            if id(connection) not in in_use and _is_waiting(connection):
                _shut_down(connection)

    def cut_older(self, seconds: float) -> None:
        """End the waits for an answer on connections that were checked out longer ago than `seconds`."""
        limit = time.monotonic() - seconds
        for connection, checkout_time in list(self._in_use.values()):
            if checkout_time < limit and _is_waiting(connection):
                _shut_down(connection)

    def _on_connect(self, connection: Any, record: Any) -> None:
        self._connections.add(connection)

    def _on_checkout(self, connection: Any, record: Any, proxy: Any) -> None:
        self._in_use[threading.get_ident()] = connection, time.monotonic()

    def _on_checkin(self, connection: Any, record: Any) -> None:
        self._in_use.pop(threading.get_ident(), None)


def _is_waiting(connection: Any) -> bool:
    """Return whether a statement is under way."""
    return bool(connection.pgconn.transaction_status == 1)  # PQTRANS_ACTIVE


def _shut_down(connection: Any) -> None:
    # A connection that was closed meanwhile needs no cutting.
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.pgconn.socket)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
