"""Real servers for tests: a PostgreSQL database and a Redis key prefix of this test session's own.

A conftest.py imports the fixtures it wants. Where no server answers the tests skip and say why, unless
RECSYS_META_REQUIRE_SERVICES=1 makes that a failure.
"""

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import redis
from sqlalchemy.engine import URL, make_url

from recsys_meta.store import migrate

POSTGRES = os.environ.get("RECSYS_META_TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS = os.environ.get("RECSYS_META_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")


def missing(what: str, error: Exception) -> None:
    """Skip the test, or fail it where services are required."""
    reason = f"{what} does not answer: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    if os.environ.get("RECSYS_META_REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def text_of(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The url of a database made for this test session and dropped after it."""
    admin = make_url(POSTGRES).set(drivername="postgresql")
    name = f"recsys_meta_test_{uuid.uuid4().hex[:12]}"
    try:
        with psycopg.connect(text_of(admin), autocommit=True, connect_timeout=3) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
    except psycopg.OperationalError as error:
        missing("PostgreSQL", error)
    try:
        yield text_of(admin.set(database=name))
    finally:
        with psycopg.connect(text_of(admin), autocommit=True, connect_timeout=3) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The url of an empty schema in the session's database, for one test."""
    schema = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA "{schema}"')
    return f"{postgres_server}?options={quote(f'-csearch_path={schema}')}"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The url of a SQLite file that does not exist yet, in a directory that does not either."""
    return f"sqlite:///{tmp_path / 'database' / 'recsys meta.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """The url of an empty database, once for each kind."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))


@pytest.fixture
def database_url(empty_url: str) -> str:
    """The url of a migrated database, once for each kind."""
    migrate.upgrade(empty_url)
    return empty_url


@pytest.fixture(scope="session")
def redis_server() -> str:
    """The url of the Redis that tests may use."""
    try:
        client = redis.Redis.from_url(REDIS, socket_connect_timeout=2, socket_timeout=2)
        client.ping()
        client.close()
    except (redis.RedisError, OSError) as error:
        missing("Redis", error)
    return REDIS


@pytest.fixture
def redis_prefix(redis_server: str) -> Iterator[str]:
    """A key prefix that nobody else uses; its keys are deleted afterwards."""
    prefix = f"recsys-meta-test-{uuid.uuid4().hex}:"
    yield prefix
    with redis.Redis.from_url(redis_server) as client:
        for key in client.scan_iter(f"{prefix}*"):
            client.delete(key)


class OwnRedis:
    """A redis-server that a test may stop and start again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.options: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Where it runs already nothing happens."""
        if self._process is not None:
            return
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen(["redis-server", *options, *self.options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                with redis.Redis(port=self.port) as client:
                    client.ping()
                return
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    """A running redis-server of the test's own."""
    if shutil.which("redis-server") is None:
        missing("redis-server", FileNotFoundError("it is not installed"))
    server = OwnRedis(tmp_path)
    server.start()
    yield server
    server.stop()


class OwnCluster(OwnRedis):
    """A Redis Cluster of one node, which has all slots."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
        self.options += ["--cluster-config-file", f"nodes-{self.port}.conf"]
        self.url = f"redis+cluster://127.0.0.1:{self.port}"

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator["OwnCluster"]:
        if shutil.which("redis-server") is None:
            missing("redis-server", FileNotFoundError("it is not installed"))
        made = cls(folder)
        made.start()
        try:
            yield made
        finally:
            made.stop()

    def start(self) -> None:
        super().start()
        with redis.Redis(port=self.port) as client:
            if "cluster_slots_assigned:16384" not in self._info(client):
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            deadline = time.monotonic() + 10
            while "cluster_state:ok" not in self._info(client):
                assert time.monotonic() < deadline
                time.sleep(0.02)

    @staticmethod
    def _info(client: "redis.Redis") -> str:
        found = client.execute_command("CLUSTER INFO")
        return found.decode() if isinstance(found, bytes) else " ".join(f"{k}:{v}" for k, v in found.items())
