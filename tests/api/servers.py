"""Real servers of the application for tests, and a wire that can be cut."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import uvicorn

from api.app import build
from recsys_meta.store.settings import Settings
from tests.services import free_port


def settings(home: Path, database: str, redis: str | None = None, keys: str | None = None) -> Settings:
    """Settings of a test, whatever the environment says."""
    return Settings(home=home, database_url=database, redis_url=redis or "", api_keys=keys or "")


class Served:
    """A uvicorn server in a thread, and a client for it."""

    def __init__(self, made: Settings, host: str = "127.0.0.1") -> None:
        self.app, self.port = build(made), free_port()
        config = uvicorn.Config(self.app, host=host, port=self.port, log_config=None, access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=20)

    @property
    def house(self):
        return self.app.state.house

    def start(self) -> Served:
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._thread.start()
        wait(lambda: self._server.started or not self._thread.is_alive(), 30)
        assert self._server.started
        return self

    def stop(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    def recommend(self, *items: str, **body: object) -> httpx.Response:
        events = [{"item": item} for item in items]
        return self.client.post("/v1/recommendations", json={"events": events, **body})


@contextlib.contextmanager
def serving(made: Settings, **options: str) -> Iterator[Served]:
    server = Served(made, **options).start()
    try:
        yield server
    finally:
        server.stop()


def wait(until: Callable[[], object], seconds: float = 10) -> None:
    """Wait until something holds; fail when it does not."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class Wire:
    """A TCP relay to a server that a test may cut and mend."""

    def __init__(self, port: int) -> None:
        self._target, self.port = port, free_port()
        self._ends: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        if self._listener is None:
            return
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._listener, self._ends = None, []

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                sink.sendall(chunk)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
