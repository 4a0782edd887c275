"""Real servers for tests: a PostgreSQL database and a Redis key prefix of this test session's own.

A conftest.py imports the fixtures it wants. Where no server answers the tests skip and say why, unless
RECSYS_META_REQUIRE_SERVICES=1 makes that a failure.
"""

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot
from sqlalchemy.engine import URL, make_url

from recsys_meta.store import migrate

POSTGRES = os.environ.get("RECSYS_META_TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS = os.environ.get("RECSYS_META_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
PORTS = itertools.count(secrets.randbelow(2_000))  # two sessions on one machine begin at different ones
PATIENCE_S = 60  # how long to wait for a server that starts or answers late because the machine is busy, seconds

PATIENT = """
from api import database, house
house.REDIS_S = database.READ_S = 10.0
from pipelines.__main__ import main
main()
"""  # `recsys-meta serve` in one process that waits long for Redis and the database, where being late is no outage


def missing(what: str, error: Exception) -> None:
    """Skip the test, or fail it where services are required."""
    reason = f"{what} does not answer: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    if os.environ.get("RECSYS_META_REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def need_redis() -> None:
    """Skip or fail a test that starts its own Redis where there is none to start."""
    if shutil.which("redis-server") is None:
        missing("redis-server", FileNotFoundError("it is not installed"))


def wait(until: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Wait until something holds; fail when it does not."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def text_of(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def free_port() -> int:
    """A port that no other test of this session gets, also where several processes test side by side. It lies below
    those that Linux gives to callers: who calls a server that is down could come to hold its port."""
    while True:
        port = 15_000 + 2_000 * WORKER + next(PORTS) % 2_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The url of a database made for this test session and dropped after it."""
    admin = make_url(POSTGRES).set(drivername="postgresql")
    name = f"recsys_meta_test_{uuid.uuid4().hex[:12]}"
    try:
        with psycopg.connect(text_of(admin), autocommit=True, connect_timeout=PATIENCE_S) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
    except psycopg.OperationalError as error:
        missing("PostgreSQL", error)
    try:
        yield text_of(admin.set(database=name))
    finally:
        with psycopg.connect(text_of(admin), autocommit=True, connect_timeout=PATIENCE_S) as connection:
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
        client = redis.Redis.from_url(REDIS, socket_connect_timeout=PATIENCE_S, socket_timeout=PATIENCE_S)
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
        """Where it runs already it goes on, should it hang."""
        if self._process is not None:
            self.go_on()
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen(["redis-server", *options, *self.options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
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

    def hang(self) -> None:
        """Stand still: connections are taken, and nothing that is sent is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Answer again, at first what was asked meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def runs(self) -> bool:
        return self._process is not None

    def ask(self, command: str, *given: Any) -> Any:
        """Its answer to a command."""
        with redis.Redis(port=self.port) as client:
            return client.execute_command(command, *given)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    """A running redis-server of the test's own."""
    need_redis()
    server = OwnRedis(tmp_path)
    server.start()
    yield server
    server.stop()


class OwnCluster:
    """A Redis Cluster of masters that share the slots, each of which a test may stop and start again.

    Where it is not `whole` the nodes that are left answer for their own slots after one was lost; else none does.
    """

    def __init__(self, folder: Path, nodes: int = 1, *, whole: bool = True) -> None:
        self._folder, self._whole = folder, whole
        self.nodes: list[OwnRedis] = []
        self._replicas: list[OwnRedis] = []
        self._buses: dict[OwnRedis, int] = {}
        for _ in range(nodes):
            self.nodes.append(self._made())
        self._slots = {
            node: list(range(n * SLOTS // nodes, (n + 1) * SLOTS // nodes)) for n, node in enumerate(self.nodes)
        }
        self.port = self.nodes[0].port
        self.url = f"redis+cluster://127.0.0.1:{self.port}"

    def _made(self) -> OwnRedis:
        """A node that does not run yet."""
        node = OwnRedis(self._folder / f"node {len(self._buses)}")
        self._buses[node] = free_port()
        node.options = ["--cluster-enabled", "yes", "--cluster-port", str(self._buses[node])]
        node.options += ["--cluster-node-timeout", "1000"]
        node.options += ["--cluster-require-full-coverage", "yes" if self._whole else "no"]
        return node

    @classmethod
    @contextmanager
    def running(cls, folder: Path, nodes: int = 1, *, whole: bool = True) -> Iterator["OwnCluster"]:
        need_redis()
        made = cls(folder, nodes, whole=whole)
        try:
            made.start()
            yield made
        finally:
            made.stop()

    def start(self) -> None:
        """Start what does not run, and wait until every node finds the cluster whole. A node knows its slots from
        before; at first it is told."""
        for node, slots in self._slots.items():
            node.start()
            if self._told(node)["cluster_slots_assigned"] == "0":
                node.ask("CLUSTER ADDSLOTSRANGE", slots[0], slots[-1])
                if node is not self.nodes[0]:
                    self._meet(node)
        for node in self.nodes:
            self._wait(node, cluster_state="ok", cluster_slots_ok=str(SLOTS), cluster_known_nodes=str(len(self.nodes)))

    def stop(self) -> None:
        """All nodes."""
        for node in [*self.nodes, *self._replicas]:
            node.stop()

    def lose(self, lost: OwnRedis) -> None:
        """Stop a node, and wait until the others have given it up."""
        lost.stop()
        for node in self.nodes:
            if node is not lost:
                self._wait(node, cluster_slots_fail=str(len(self._slots[lost])))

    def add(self) -> OwnRedis:
        """One more node, which has no slots yet."""
        node = self._joined()
        self.nodes.append(node)
        self._slots[node] = []
        return node

    @contextmanager
    def moving(self, names: Iterable[str], to: OwnRedis) -> Iterator[None]:
        """Give the slots of names, and all that is in them, to another node, as an operator does. Meanwhile they are
        on their way: half of what is in each is there."""
        slots = {key_slot(name.encode()): self.node_of(name) for name in names}
        for slot, source in slots.items():
            to.ask("CLUSTER SETSLOT", slot, "IMPORTING", source.ask("CLUSTER MYID"))
            source.ask("CLUSTER SETSLOT", slot, "MIGRATING", to.ask("CLUSTER MYID"))
            there = source.ask("CLUSTER COUNTKEYSINSLOT", slot)
            self._send(slot, source, to, (there + 1) // 2)
        yield
        for slot, source in slots.items():
            while there := source.ask("CLUSTER COUNTKEYSINSLOT", slot):
                self._send(slot, source, to, there)
            for node in (to, source):
                node.ask("CLUSTER SETSLOT", slot, "NODE", to.ask("CLUSTER MYID"))
            self._slots[source].remove(slot)
            self._slots[to].append(slot)

    @staticmethod
    def _send(slot: int, source: OwnRedis, to: OwnRedis, many: int) -> None:
        if keys := source.ask("CLUSTER GETKEYSINSLOT", slot, many):
            source.ask("MIGRATE", "127.0.0.1", to.port, "", 0, 5_000, "REPLACE", "KEYS", *keys)

    def replica(self, of: OwnRedis) -> OwnRedis:
        """A replica of a node that has all that the node has."""
        node = self._joined()
        self._replicas.append(node)
        node.ask("CLUSTER REPLICATE", of.ask("CLUSTER MYID"))
        wait(lambda: node.ask("INFO", "replication")["master_link_status"] == "up")
        return node

    def promote(self, replica: OwnRedis, lost: OwnRedis) -> None:
        """Let a replica take the slots of its node, which was lost."""
        replica.ask("CLUSTER FAILOVER", "TAKEOVER")
        self._replicas.remove(replica)
        self._slots[replica] = self._slots.pop(lost)
        self.nodes[self.nodes.index(lost)] = replica
        for node in self.nodes:
            self._wait(node, cluster_state="ok", cluster_slots_ok=str(SLOTS))

    def node_of(self, name: str) -> OwnRedis:
        """On which node a name lies."""
        slot = key_slot(name.encode())
        return next(node for node, slots in self._slots.items() if slot in slots)

    def _joined(self) -> OwnRedis:
        """A new node that all others know."""
        node = self._made()
        node.start()
        self._meet(node)
        for one in (node, *self.nodes):
            self._wait(one, cluster_state="ok", cluster_known_nodes=str(len(self._buses)))
        return node

    def _meet(self, node: OwnRedis) -> None:
        node.ask("CLUSTER MEET", "127.0.0.1", self.port, self._buses[self.nodes[0]])

    def names(self) -> list[set[str]]:
        """The names on each node, none on one that does not run."""
        return [{name.decode() for name in node.ask("KEYS", "*")} if node.runs else set() for node in self.nodes]

    @staticmethod
    def _told(node: OwnRedis) -> dict[str, str]:
        """What a node thinks of the cluster."""
        return dict(node.ask("CLUSTER INFO"))

    def _wait(self, node: OwnRedis, **expected: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not expected.items() <= (told := self._told(node)).items():
            assert time.monotonic() < deadline, told
            time.sleep(0.02)
