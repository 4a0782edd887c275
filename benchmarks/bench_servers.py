"""Installation with a flagship of 4,000 items, a Redis and servers, for the benchmarks of serving."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import psycopg
import torch
from sqlalchemy.engine import make_url

from recsys_meta.core.dataset import Dataset, Events, Vocabulary
from recsys_meta.core.schema import Schema
from recsys_meta.core.types import FIRST
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.bundle import Bundle, make_bundle, save_bundle
from recsys_meta.models.learners import LEARNERS
from recsys_meta.store.database import engine, migrate
from recsys_meta.store.model_registry import registry

ITEMS = 4000
EVENTS = 5


def flagship(items: int = ITEMS) -> Bundle:
    """Build the flagship at its default sizes (3 towers of 64 dimensions) over drawn events.

    It is not trained: the cost of an answer does not depend on the values of parameters.
    """
    data = drawn_events(items)
    index = EventIndex.of(data)
    learner = LEARNERS["flagship"](LEARNERS["flagship"].Config())
    train = np.arange(1200)
    params = learner.init(data, train, torch.Generator().manual_seed(0))
    return make_bundle(learner, params, data, index, train, {"note": "not trained"})


def drawn_events(items: int, entities: int = 1500, each: int = 40) -> Dataset:
    """Draw a ranking data set without features: rows of items by a power law."""
    rng = np.random.default_rng(0)
    chance = 1.0 / np.arange(1, items + 1)
    rows = [rng.choice(items, each, replace=False, p=chance / chance.sum()) for _ in range(entities)]
    item = (np.concatenate(rows) + FIRST).astype(np.int32)
    events = Events(np.arange(0, each * entities + 1, each), item, np.ones(len(item), np.float32))
    names = {"item": pd.Index([f"i{n}" for n in range(items)]), "entity": pd.Index([f"e{n}" for n in range(entities)])}
    return Dataset(Schema(name="bench", objective="ranking"), events, {}, {}, Vocabulary(names), digest="bench")


def install(home: Path, bundle: Bundle) -> str:
    """Publish a bundle in a new installation; return the URL of its database."""
    url = f"sqlite:///{(home / 'recsys-meta.db').resolve()}"
    migrate.upgrade_database(url)
    path = save_bundle(bundle, home / "models" / "bench")
    made = engine.connect(url)
    with engine.session(made) as session:
        registry.publish_version(session, "bench", path.name, str(path))
    made.dispose()
    return url


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def redis_server(folder: Path, port: int | None = None) -> Iterator[str]:
    """Run a redis-server of our own, on a port that may be given; yield its URL."""
    if shutil.which("redis-server") is None:
        raise SystemExit("redis-server is not installed; give --redis URL")
    port = port or free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with _running(["redis-server", *options], dict(os.environ), folder / "redis.log"):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def postgres_database(server: str) -> Iterator[str]:
    """Make a database of our own on a PostgreSQL server; yield its URL, and drop it afterwards."""
    name = f"recsys_meta_bench_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def environment(home: Path, redis: str | None, database: str | None = None) -> dict[str, str]:
    """Environment of a command in a home of its own; without a URL it has no Redis, and a SQLite file in the home."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RECSYS_META", "PROMETHEUS"))}
    urls = {"RECSYS_META_REDIS_URL": redis, "RECSYS_META_DATABASE_URL": database}
    own = {"RECSYS_META_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return {**kept, **own, **{name: url for name, url in urls.items() if url is not None}}


@contextmanager
def api_server(
    home: Path, redis: str | None, workers: int = 1, database: str | None = None, settings: Mapping[str, str] = {}
) -> Iterator[tuple[int, int]]:
    """Run `recsys-meta serve`, with further settings by the names of their variables; yield its port and the process id
    of its parent."""
    port = free_port()
    command = [sys.executable, "-m", "pipelines", "serve", "--port", str(port), "--workers", str(workers)]
    with _running(command, {**environment(home, redis, database), **settings}, home / "server.log") as pid:
        _wait(port, "/readyz")
        yield port, pid


@contextmanager
def bare_server(folder: Path, workers: int = 1) -> Iterator[int]:
    """Run the bare route under the same uvicorn settings; yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.bare_route:app", "--port", str(port), "--no-access-log"]
    command += ["--workers", str(workers), "--log-level", "warning"]
    with _running(command, dict(os.environ), folder / "bare.log"):
        _wait(port, "/openapi.json")
        yield port


def family(pid: int) -> list[int]:
    """Return the ids of a process and of all that it started."""
    found = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += family(int(child))
    return found


def resident(pid: int) -> int:
    """Return the bytes that a process and its children hold in memory."""
    return sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") for p in family(pid))


def _wait(port: int, path: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"no server answered on port {port}")
        time.sleep(0.1)


@contextmanager
def _running(command: Sequence[str], env: dict[str, str], log: Path) -> Iterator[int]:
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
