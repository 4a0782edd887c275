"""Real servers of the application for tests, and a wire that can be cut."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import uvicorn
from fastapi import FastAPI
from torch import Tensor

from api.app import build_app
from recsys_meta.inference.state_codec import MAGIC, dump_state, load_state
from recsys_meta.store.settings import Settings
from tests.fixtures.services import PATIENT, free_port, wait


def settings(home: Path, database: str, redis: str | None = None, keys: str | None = None) -> Settings:
    """Settings of a test, whatever the environment says."""
    return Settings(home=home, database_url=database, redis_url=redis or "", api_keys=keys or "")


def passes(app: FastAPI, middleware: type) -> bool:
    """Whether requests pass a middleware of a class, in front of the framework."""
    layer: Any = app.front
    while layer is not None and not isinstance(layer, middleware):
        layer = getattr(layer, "app", None)
    return layer is not None


class Served:
    """A uvicorn server in a thread, and a client for it."""

    def __init__(self, made: Settings, host: str = "127.0.0.1") -> None:
        self.app, self.port = build_app(made), free_port()
        options: dict[str, Any] = {
            "log_config": None,
            "access_log": False,
            "http": "api.http.uvicorn_protocol:BoundedHttpProtocol",
        }
        config = uvicorn.Config(self.app, host=host, port=self.port, **options)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=60)

    @property
    def container(self):
        return self.app.state.container

    def start(self) -> Served:
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._thread.start()
        wait(lambda: self._server.started or not self._thread.is_alive())
        assert self._server.started
        return self

    def stop(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    def flush(self) -> None:
        """Wait until the rows of all responses so far are written."""
        assert self.client.get("/livez").status_code == 200  # a response's rows are queued before the next request
        wait(lambda: not self.container.diagnoser.waiting)  # a row waits for its figures before it reaches the writer
        assert self.container.writer.flush(30)

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


def change_state(server: Served, change: Callable[[Tensor], Tensor]) -> None:
    """Let the process hold another state of the one newcomer that it knows, and no list."""
    memory = server.container.memory
    ((key, raw),) = [(key, one.value) for key, one in memory._entries.items() if one.value.startswith(MAGIC)]
    state = load_state(raw)
    assert state is not None
    memory.close()
    memory.set(key, dump_state({name: change(leaf) for name, leaf in state.items()}), 60.0)


def cut_short(leaf: Tensor) -> Tensor:
    """A leaf that reads well, and that no model can use."""
    return leaf[..., :1].clone() if leaf.dim() > 1 else leaf


class Wire:
    """A TCP relay to a server that a test may cut and mend, and let hang, dawdle or babble.

    A connection on which an answer was swallowed never says anything again, whatever the wire does later.
    """

    def __init__(self, port: int) -> None:
        self._target, self.port = port, free_port()
        self._ends: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._answer: Callable[[bytes], bytes | None] = bytes

    def mend(self) -> None:
        self._answer = bytes
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def hang(self) -> None:
        """Take all that is sent and never answer."""
        self._answer = lambda chunk: None

    def dawdle(self, seconds: float) -> None:
        """Keep every piece of every answer back for so long."""

        def late(chunk: bytes) -> bytes:
            time.sleep(seconds)
            return chunk

        self._answer = late

    def babble(self) -> None:
        """Answer with noise of the same length."""
        self._answer = lambda chunk: random.Random(len(chunk)).randbytes(len(chunk))

    def garble(self, after: int, seed: int) -> None:
        """Let so many pieces of answers pass, then answer with noise or with a bit that is another."""
        rng, left = random.Random(seed), itertools.count(after, -1)

        def answer(chunk: bytes) -> bytes:
            if next(left) > 0:
                return chunk
            if seed % 2:
                return rng.randbytes(len(chunk))
            place = rng.randrange(len(chunk))
            return chunk[:place] + bytes([chunk[place] ^ 1 << rng.randrange(8)]) + chunk[place + 1 :]

        self._answer = answer

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
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # nobody is there: as the caller would see it without a wire
                near.close()
                continue
            self._ends += [near, far]
            threading.Thread(target=self._ask, args=(near, far), daemon=True).start()
            threading.Thread(target=self._reply, args=(far, near), daemon=True).start()

    @staticmethod
    def _ask(near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := near.recv(65536):
                far.sendall(chunk)
        with contextlib.suppress(OSError):
            far.shutdown(socket.SHUT_RDWR)

    def _reply(self, far: socket.socket, near: socket.socket) -> None:
        dumb = False
        with contextlib.suppress(OSError):
            while chunk := far.recv(65536):
                answer = None if dumb else self._answer(chunk)
                dumb = answer is None
                if answer is not None:
                    near.sendall(answer)
        if not dumb:
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)


class OwnPostgres:
    """A PostgreSQL server that a test may kill, with a role of its own whose password is asked for."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder, self._programs, self.port = folder, programs, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root.
        self._as: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}

    @classmethod
    def find(cls) -> Path | None:
        """Where the programs are, if they are installed."""
        found = shutil.which("initdb")
        places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        return places[-1] if places and (places[-1] / "postgres").exists() else None

    @property
    def admin(self) -> str:
        return f"postgresql://admin:admin@127.0.0.1:{self.port}/postgres"

    def url(self, port: int | None = None) -> str:
        """The url of the role's database, by way of a wire."""
        return f"postgresql://app:secret@127.0.0.1:{port or self.port}/app"

    def make(self) -> None:
        password = self._folder / "password"
        password.write_text("admin")
        if self._as:
            for path in (self._folder, password):
                shutil.chown(path, "postgres", "postgres")
        initdb = [self._programs / "initdb", "-D", self._folder / "data", "-U", "admin", "-N"]
        options = ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--locale=C"]
        subprocess.run([*initdb, *options], check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **self._as)
        self.start()
        self.do("CREATE ROLE app LOGIN PASSWORD 'secret'", "CREATE DATABASE app OWNER app")

    def start(self) -> None:
        """Where it runs already nothing happens."""
        if self._process is None:
            wait(self._up)

    def _up(self) -> bool:
        """Whether it answers. It does not start while one that was killed has processes that have not noticed."""
        if self._process is None or self._process.poll() is not None:
            options = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
            # A kill of its processes loses nothing that the system has taken; only a machine that stops would.
            small = ["-c", "shared_buffers=16MB", "-c", "max_connections=60", "-c", "fsync=off"]
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder / "data", *options, *small],
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd=self._folder,
                **self._as,
            )
        return self._answers()

    def kill(self) -> None:
        """All of its processes at once, as when the machine goes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def do(self, *statements: str, database: str = "postgres") -> None:
        with psycopg.connect(self.admin.replace("/postgres", f"/{database}"), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def hang_up(self) -> None:
        """End the connections of the role."""
        self.do("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.admin, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


class Workers:
    """`recsys-meta serve` with several processes. `patient`: with one, which waits long for Redis and the database."""

    def __init__(
        self, home: Path, database: str, redis: str | None, workers: int = 2, *, patient: bool = False
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RECSYS_META", "PROMETHEUS"))}
        env = {**kept, "RECSYS_META_HOME": str(home), "RECSYS_META_DATABASE_URL": database, "OMP_NUM_THREADS": "1"}
        self._env = env if redis is None else {**env, "RECSYS_META_REDIS_URL": redis}
        self._command = [sys.executable, *(("-c", PATIENT) if patient else ("-m", "pipelines")), "serve"]
        self._command += ["--port", str(self.port), "--workers", str(workers)]
        self.log = home / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 90) -> Workers:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._env, stdout=log, stderr=log, start_new_session=True
            )
        wait(self._ready, seconds)
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process = None

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        try:
            return httpx.get(self.url + "/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False
