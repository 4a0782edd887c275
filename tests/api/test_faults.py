"""Every way in which Redis and the database are known to fail, at boot and in mid-load: recommendations go on.

`RECSYS_META_FAULT_S` is how long each fault lasts under load, in seconds; longer finds more.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest
import redis

from recsys_meta.models.bundle import Bundle
from recsys_meta.store.database import migrate
from tests.api import bundles
from tests.api.load_generator import STORED, THREE, Load
from tests.api.servers import OwnPostgres, Wire, Workers, serving, settings, wait
from tests.fixtures.services import OwnRedis, missing

FAULT_S = float(os.environ.get("RECSYS_META_FAULT_S", "1"))
BACK_S = float(os.environ.get("RECSYS_META_BACK_S", "60"))  # within which all is well again: 5 where nothing else runs
ANSWER_S = 12.0  # no answer may take longer, on a machine that is busy with other things; unbounded it took 15 at least
RANKING = ("anyone", "same", "stored", "cold")


@dataclass
class Place:
    """Both servers, each behind a wire, and a model that is live."""

    postgres: OwnPostgres
    redis: OwnRedis
    sql_wire: Wire
    redis_wire: Wire
    home: Path

    @property
    def urls(self) -> tuple[str, str]:
        return self.postgres.url(self.sql_wire.port), f"redis://127.0.0.1:{self.redis_wire.port}/0"

    def redis_do(self, *words: object, password: str | None = None) -> None:
        with redis.Redis(port=self.redis.port, password=password) as client:
            client.execute_command(*words)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Iterator[Place]:
    programs = OwnPostgres.find()
    if programs is None or shutil.which("redis-server") is None:
        missing("a PostgreSQL or Redis of the test's own", FileNotFoundError("it is not installed"))
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="recsys-meta-"))  # where another user may enter, unlike pytest's folders
    postgres, own = OwnPostgres(folder, programs), OwnRedis(tmp_path_factory.mktemp("redis"))
    made = Place(postgres, own, Wire(postgres.port), Wire(own.port), tmp_path_factory.mktemp("home"))
    try:
        postgres.make()
        own.start()
        made.sql_wire.mend()
        made.redis_wire.mend()
        migrate.upgrade_database(postgres.url())
        bundles.publish(postgres.url(), made.home / "models", "users", bundle)
        yield made
    finally:
        made.sql_wire.cut()
        made.redis_wire.cut()
        postgres.kill()
        own.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def noted(place: Place) -> Place:
    """The place after a server has seen its database once, and noted which models are live."""
    with serving(settings(place.home, *place.urls)):
        pass
    assert (place.home / "live-models.json").exists()
    return place


@dataclass(frozen=True)
class Fault:
    """How to break something and how to mend it. `gone`: answers say that it is missing; `silent`: no event can be
    stored meanwhile."""

    of: str
    name: str
    begin: Callable[[Place], object]
    end: Callable[[Place], object]
    gone: bool = True
    silent: bool = False

    def __str__(self) -> str:
        return f"{self.of} {self.name}"


def noise(place: Place) -> None:
    """Something else under all of our keys, and under some that we might come to have."""
    with redis.Redis(port=place.redis.port) as client:
        for n, key in enumerate(client.keys("*")):
            client.delete(key)
            if n % 3 == 0:
                client.rpush(key, b"a list")
            else:
                client.set(key, os.urandom(n % 400))


def lock(place: Place) -> None:
    place.redis_do("CONFIG", "SET", "requirepass", "other")
    place.redis_do("CLIENT", "KILL", "TYPE", "normal", password="other")


def refuse(place: Place) -> None:
    place.postgres.do("ALTER ROLE app PASSWORD 'other'")
    place.postgres.hang_up()


def only_read(on: bool) -> Callable[[Place], None]:
    def act(place: Place) -> None:
        place.postgres.do(f"ALTER DATABASE app SET default_transaction_read_only = {'on' if on else 'off'}")
        place.postgres.hang_up()

    return act


FULL = (
    "CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$",
    *(f"CREATE TRIGGER full_disk BEFORE INSERT ON {t} EXECUTE FUNCTION full_disk()" for t in ("events", "adaptations")),
)
ROOM = tuple(f"DROP TRIGGER full_disk ON {t}" for t in ("events", "adaptations"))


def redis_does(*words: object, password: str | None = None) -> Callable[[Place], None]:
    return lambda place: place.redis_do(*words, password=password)


def sql_does(*statements: str, database: str = "postgres") -> Callable[[Place], None]:
    return lambda place: place.postgres.do(*statements, database=database)


def mend_redis(place: Place) -> None:
    place.redis_wire.mend()


def mend_sql(place: Place) -> None:
    place.sql_wire.mend()


UNLOCK = redis_does("CONFIG", "SET", "requirepass", "", password="other")
NO_ROOM, SOME_ROOM = (redis_does("CONFIG", "SET", "maxmemory", n) for n in "10")
FOLLOW, LEAD = redis_does("REPLICAOF", "127.0.0.1", "1"), redis_does("REPLICAOF", "NO", "ONE")
ADMIT = sql_does("ALTER ROLE app PASSWORD 'secret'")

FAULTS = [
    Fault("redis", "killed", lambda p: p.redis.stop(), lambda p: p.redis.start()),
    Fault("redis", "hanging", lambda p: p.redis_wire.hang(), mend_redis),
    Fault("redis", "slow", lambda p: p.redis_wire.dawdle(0.6), mend_redis),
    Fault("redis", "babbling", lambda p: p.redis_wire.babble(), mend_redis),
    Fault("redis", "read-only", FOLLOW, LEAD),
    Fault("redis", "full", NO_ROOM, SOME_ROOM),
    Fault("redis", "refusing the password", lock, UNLOCK),
    Fault("redis", "holding garbage", noise, lambda p: None, gone=False),
    Fault("database", "killed", lambda p: p.postgres.kill(), lambda p: p.postgres.start(), silent=True),
    Fault("database", "hanging", lambda p: p.sql_wire.hang(), mend_sql, silent=True),
    Fault("database", "slow", lambda p: p.sql_wire.dawdle(0.7), mend_sql),
    Fault("database", "babbling", lambda p: p.sql_wire.babble(), mend_sql, silent=True),
    Fault("database", "refusing the password", refuse, ADMIT, silent=True),
    Fault("database", "read-only", only_read(True), only_read(False), gone=False, silent=True),
    Fault("database", "full", sql_does(*FULL, database="app"), sql_does(*ROOM, database="app"), False, True),
]


@contextlib.contextmanager
def booted(place: Place, name: str) -> Iterator[tuple[Workers, list[dict]]]:
    """Two workers that started while both servers were away, and what they answered then; now all is well again."""
    both = [fault for fault in FAULTS if fault.name == name]
    made, log = Workers(place.home, *place.urls), place.home / "server.log"
    before = log.stat().st_size if log.exists() else 0
    try:
        for fault in both:
            fault.begin(place)
        made.start()
        told = [recommended(made.url, entity={"id": f"boot {n}"}, events=[{"item": f"i{n}"}]) for n in range(24)]
        wait(lambda: log.read_bytes()[before:].count(b"models are those it named last") == 2)
        for fault in both:
            fault.end(place)
        mended = time.monotonic()
        wait(lambda: not any(recommended(made.url, entity={"id": "x"})["missing"] for _ in range(6)), BACK_S)
        print(f"both {name}, two workers: well after {time.monotonic() - mended:.2f} s")
        yield made, told
    finally:
        for fault in both:
            with_end(fault, place)
        made.stop()


def recommended(url: str, **body: object) -> dict:
    """An answer over a connection of its own, so that any worker may give it."""
    found = httpx.post(url + "/v1/recommendations", json={"n": 5, **body}, timeout=30)
    assert found.status_code == 200, found.text
    assert found.elapsed.total_seconds() < ANSWER_S
    return found.json()


def well(load: Load, since: float) -> bool:
    """Whether the last dozen answers, of any worker, had all they need, and events are stored."""
    asked, sent = load.since(since, *RANKING)[-12:], load.since(since, "events")[-3:]
    return (
        len(asked) == 12
        and len(sent) == 3
        and not any(t.missing for t in asked)
        and all(t.status == 200 for t in sent)
        and {t.kind for t in asked} > {"stored"}
    )


def kept_ids(place: Place) -> set[str]:
    with psycopg.connect(place.postgres.url()) as connection:
        return {row[0] for row in connection.execute("SELECT event_id FROM events")}


def check_boot(told: list[dict]) -> None:
    for one in told:
        assert (len(one["items"]), one["support_size"], one["served_by"]) == (5, 1, "adapted")
        assert set(one["missing"]) <= {"database", "redis"}
        assert "database" in one["missing"]
    assert any(one["missing"] == ["database", "redis"] for one in told)


@pytest.mark.slow
def test_two_workers_that_start_without_both_keep_the_arms_of_a_split(
    place: Place, noted: Place, other: Bundle
) -> None:
    second = bundles.publish(place.postgres.url(), place.home / "models", "users", other, live=False)
    with serving(settings(place.home, *place.urls)) as server:
        live = server.container.registry.live["users"].version
        arms = [{"version": version, "weight": 1} for version in (live, second)]
        assert server.client.put("/v1/models/users/split", json={"arms": arms}).status_code == 200
        bodies = [{"entity": {"id": f"boot {n}"}, "events": [{"item": f"i{n}"}]} for n in range(24)]
        before = [server.client.post("/v1/recommendations", json=body).json() for body in bodies]
        place.redis_do("FLUSHALL")
    assert {one["variant"] for one in before} == {live, second}
    with booted(place, "killed") as (workers, told):
        check_boot(told)
        assert [one["variant"] for one in told] == [one["variant"] for one in before]
        assert [[i["item"] for i in one["items"]] for one in told] == [
            [i["item"] for i in one["items"][:5]] for one in before
        ]
        wait(lambda: httpx.delete(workers.url + "/v1/models/users/split", timeout=20).status_code == 200)


@pytest.fixture(scope="module")
def hung(noted: Place) -> Iterator[tuple[Workers, list[dict]]]:
    with booted(noted, "hanging") as made:
        yield made


@pytest.fixture(scope="module")
def load(hung: tuple[Workers, list[dict]]) -> Iterator[Load]:
    """Load on two workers that started while both servers hung."""
    url = hung[0].url
    events = [{"entity": STORED, "item": i, "event_id": f"stored {i}"} for i in THREE]
    wait(lambda: httpx.post(url + "/v1/events", json={"events": events}, timeout=20).status_code == 200)
    with Load(url) as made:
        yield made


@pytest.mark.slow
def test_two_workers_that_start_while_both_hang(hung: tuple[Workers, list[dict]]) -> None:
    check_boot(hung[1])


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_in_mid_load(place: Place, load: Load, fault: Fault) -> None:
    wait(lambda: well(load, 0.0))
    start = time.monotonic()
    fault.begin(place)
    broken = time.monotonic()
    time.sleep(FAULT_S)
    if fault.gone:
        wait(lambda: any(fault.of in t.missing for t in load.since(broken, *RANKING)))
    if fault.silent:
        wait(lambda: any(t.status == 503 for t in load.since(broken, "events")))
    fault.end(place)
    mended = time.monotonic()
    wait(lambda: well(load, mended), BACK_S)
    told = load.since(start, *RANKING)
    slowest = max(t.seconds for t in told)
    print(f"{fault}: {len(told)} answers, slowest {slowest:.2f} s, well after {time.monotonic() - mended:.2f} s")
    assert {t.status for t in told} == {200}
    assert all(len(t.body["items"]) == 5 for t in told)
    assert slowest < ANSWER_S
    for one in told:
        expected = (3,) if not one.missing or one.kind != "stored" else (0, 3)
        assert one.body["support_size"] in expected
        assert one.body["served_by"] in (("adapted", "cache") if one.body["support_size"] else ("prior",))
        assert one.body["degraded"] == bool(one.missing)
    # A machine that is busy may be late now and then with the other one, which is then left alone for a while.
    assert sum(not set(t.missing) <= {fault.of} for t in told) <= len(told) // 2
    # Whatever fails, equal questions get equal answers.
    same = {tuple(i["item"] for i in t.body["items"]) for t in told if t.kind in ("same", "cold")}
    assert len(same) == 1
    stored = {tuple(i["item"] for i in t.body["items"]) for t in told if t.kind == "stored" and t.body["support_size"]}
    assert stored == same
    sent = load.since(start, "events")
    assert {t.status for t in sent} <= {200, 503}
    assert all(t.retry for t in sent if t.status == 503)
    if not fault.silent and fault.of == "redis":
        assert sum(t.status != 200 for t in sent) <= len(sent) // 2
    acknowledged = set(load.acknowledged)  # what comes in while the database is asked is not asked about
    assert acknowledged <= kept_ids(place)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_at_boot(place: Place, noted: Place, fault: Fault, hasty: Callable[[str], None]) -> None:
    hasty(fault.of)
    made = settings(place.home, *place.urls)
    fault.begin(place)
    try:
        with serving(made) as server:
            for n in range(8):
                found = server.recommend(f"i{n}", "i9", n=5)
                assert found.status_code == 200, found.text
                body = found.json()
                assert (len(body["items"]), body["support_size"]) == (5, 2)
                assert body["served_by"] in ("adapted", "cache")
                assert set(body["missing"]) <= {fault.of}
            if fault.gone:
                wait(lambda: fault.of in server.recommend("i1", entity={"id": "x"}).json()["missing"])
            fault.end(place)
            mended = time.monotonic()
            wait(lambda: not server.recommend("i1", entity={"id": "x"}).json()["missing"], BACK_S)
            print(f"{fault}: well after {time.monotonic() - mended:.2f} s")
            sent = {"events": [{"entity": "boot", "item": "i1", "event_id": f"boot {fault}"}]}
            wait(lambda: server.client.post("/v1/events", json=sent).status_code == 200)
            assert server.client.post("/v1/events", json=sent).json()["duplicates"] == 1
            wait(lambda: server.client.delete("/v1/entities/user/boot").status_code == 200)
    finally:
        with_end(fault, place)


def with_end(fault: Fault, place: Place) -> None:
    """Mend again, whatever became of the test; mending twice may fail."""
    with contextlib.suppress(psycopg.Error, redis.RedisError):
        fault.end(place)
