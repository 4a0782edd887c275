"""What goes on while Redis or the database is away, and that all is well again when they are back."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.engine import make_url

from api import container
from api.persistence.async_database import READ_S
from tests.api import bundles
from tests.api.servers import Wire, serving, settings, wait

THREE = ("i3", "i14", "i15")


@pytest.fixture
def wire(migrated_schema):
    """A wire to PostgreSQL."""
    made = Wire(make_url(migrated_schema).port or 5432)
    made.mend()
    yield made
    made.cut()


@pytest.fixture
def wired(home, migrated_schema, bundle, wire):
    """A server whose database is behind the wire."""
    bundles.publish(migrated_schema, home / "models", "users", bundle)
    url = make_url(migrated_schema).set(host="127.0.0.1", port=wire.port).render_as_string(hide_password=False)
    with serving(settings(home, url)) as server:
        yield server


def events(entity, *items):
    return {"events": [{"entity": entity, "item": item, "event_id": f"{entity} {item}"} for item in items]}


def test_redis_stops_in_mid_run_and_comes_back(full, own_redis, new_id):
    entity = {"id": new_id}
    full.client.post("/v1/events", json=events(new_id, *THREE))
    before = full.recommend(entity=entity).json()
    assert before["degraded"] is False
    own_redis.stop()
    wait(lambda: full.recommend("i1").json()["degraded"])
    during = full.recommend(entity=entity).json()
    assert (during["degraded"], during["missing"], during["support_size"]) == (True, ["redis"], 3)
    assert during["items"] == before["items"]
    # Stored while Redis is away, and seen at once: without stamps every read asks the database.
    stored = full.client.post("/v1/events", json=events(new_id, "i70")).json()
    assert (stored["accepted"], stored["missing"]) == (1, ["redis"])
    assert full.recommend(entity=entity).json()["support_size"] == 4
    ready = full.client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["checks"]["redis"]["ok"] is False
    refused = full.client.delete(f"/v1/entities/user/{new_id}")
    assert (refused.status_code, "ask again" in refused.json()["detail"]) == (503, True)
    own_redis.start()
    wait(lambda: not full.recommend("i1").json()["degraded"])
    assert full.client.delete(f"/v1/entities/user/{new_id}").status_code == 200
    assert full.recommend(*THREE, entity=entity).json()["degraded"] is False
    wait(lambda: not full.container.cache_writer.pending)
    full.container.memory.close()
    assert full.recommend(*THREE, entity=entity).headers["x-cache"] == "redis"


@pytest.fixture
def two_seconds(monkeypatch):
    """How long servers that start from here on wait for Redis: the test waits for the end of it."""
    monkeypatch.setattr(container, "REDIS_S", 2.0)


def test_an_erasure_outlasts_a_moment_in_which_redis_does_not_answer(two_seconds, full, own_redis, keys_of, new_id):
    full.client.post("/v1/events", json=events(new_id, *THREE))
    full.recommend(entity={"id": new_id})
    wait(lambda: not full.container.cache_writer.pending)
    assert keys_of()
    own_redis.hang()
    with ThreadPoolExecutor(1) as pool:
        erased = pool.submit(full.client.delete, f"/v1/entities/user/{new_id}")
        wait(lambda: full.container.redis.degraded)
        own_redis.go_on()
        assert erased.result(60).status_code == 200
    assert keys_of() == []


def test_what_redis_was_told_to_forget_and_did_not_is_not_served(home, light, own_redis, new_id):
    """Redis takes no writes for a moment, so that the stamp of an entity that changes stays. Nobody repairs that."""
    asked = {"entity": {"id": new_id}, "n": 5}
    made = settings(home, light, own_redis.url)
    with serving(made) as one, serving(made) as two:
        every = [lambda server=server: server.recommend(**asked).json()["support_size"] for server in (one, two)]
        one.client.post("/v1/events", json=events(new_id, *THREE))
        for _ in range(3):
            assert [size() for size in every] == [3, 3]
        own_redis.ask("REPLICAOF", "127.0.0.1", 1)
        stored = one.client.post("/v1/events", json=events(new_id, "i70")).json()
        assert (stored["accepted"], stored["missing"]) == (1, ["redis"])
        own_redis.ask("REPLICAOF", "NO", "ONE")
        assert every[0]() == 4, "at once where it was stored"
        wait(lambda: every[1]() == 4)  # elsewhere when its copy is five seconds old
        own_redis.ask("REPLICAOF", "127.0.0.1", 1)
        wait(lambda: one.client.delete(f"/v1/entities/user/{new_id}").status_code == 503)
        own_redis.ask("REPLICAOF", "NO", "ONE")
        assert every[0]() == 0
        wait(lambda: every[1]() == 0)


def test_redis_that_was_never_there_is_done_without(home, light):
    with serving(settings(home, light, "redis://127.0.0.1:1/0")) as server:
        found = server.recommend(*THREE).json()
        assert (found["served_by"], found["missing"], len(found["items"])) == ("adapted", ["redis"], 10)
        assert server.recommend(*THREE).json()["served_by"] == "cache"


def test_the_database_goes_and_comes_back(wired, wire, new_id):
    assert wired.client.post("/v1/events", json=events(new_id, *THREE)).json()["accepted"] == 3
    before = wired.recommend("i20", entity={"id": new_id}).json()
    assert (before["support_size"], before["degraded"]) == (4, False)
    assert wired.container.writer.flush()
    wire.cut()
    # At once, before anything could notice: what the body says is enough.
    during = wired.recommend("i20", "i21", entity={"id": new_id}).json()
    assert (during["support_size"], during["missing"], during["served_by"]) == (2, ["database"], "adapted")
    assert len(during["items"]) == 10
    assert wired.recommend("i30", "i31").json()["degraded"] is True
    refused = wired.client.post("/v1/events", json=events(new_id, "i70"))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert refused.headers["content-type"] == "application/problem+json"
    for path in ("/v1/runs", f"/v1/entities/user/{new_id}", "/v1/adaptations"):
        assert wired.client.get(path).status_code == 503
    listed = wired.client.get("/v1/models").json()
    assert (listed["degraded"], listed["items"][0]["loaded"]) == (True, during["model"]["version"])
    assert wired.recommend("i1", model="nobody").status_code == 404
    assert wired.client.get("/readyz").json()["checks"]["database"]["ok"] is False
    wire.mend()
    wait(lambda: not wired.recommend("i40").json()["degraded"])
    assert wired.client.post("/v1/events", json=events(new_id, "i70")).json()["accepted"] == 1
    assert wired.recommend(entity={"id": new_id}).json()["support_size"] == 4
    # What was adapted meanwhile waited for the database.
    wait(lambda: kept(wired, new_id, 2))


def test_the_start_of_a_version_at_hand_is_enough_while_the_database_is_away(home, wired, wire, migrated_schema, other):
    first = wired.recommend("i1").json()["model"]["version"]
    second = bundles.publish(migrated_schema, home / "models", "users", other, live=False)
    arms = [{"version": v, "weight": 1} for v in (first, second)]
    assert wired.client.put("/v1/models/users/split", json={"arms": arms}).status_code == 200
    wire.cut()
    for _ in range(2):  # the first notices that the database is away, the second knows
        for version in (first, second):
            for start in (version, version[:-1], version[:4]):
                answer = wired.recommend("i1", model=f"users@{start}", entity={"id": "anna"})
                assert answer.status_code == 200, answer.text
                found = answer.json()
                assert (found["model"]["version"], found["variant"], found["degraded"]) == (version, None, True)
    # Which versions start otherwise nobody can say now.
    assert wired.recommend("i1", model="users@nothing").status_code == 503
    assert wired.recommend("i1", model="users").status_code == 200


def kept(server, entity, size):
    rows = server.client.get("/v1/adaptations", params={"entity": entity}).json()["items"]
    return [row for row in rows if row["support_size"] == size]


def test_few_answers_wait_for_a_database_that_hangs(wired, wire, hasty):
    hasty("database")
    wire.hang()
    wait(lambda: wired.recommend("i1", entity={"id": "e"}).json()["degraded"])
    taken = [wired.recommend("i1", entity={"id": f"e{n}"}).elapsed.total_seconds() for n in range(30)]
    assert sum(seconds >= READ_S for seconds in taken) < 15


def test_a_server_that_starts_before_its_database_serves_when_it_is_there(home, migrated_schema, bundle, wire):
    bundles.publish(migrated_schema, home / "models", "users", bundle)
    wire.cut()
    url = make_url(migrated_schema).set(host="127.0.0.1", port=wire.port).render_as_string(hide_password=False)
    with serving(settings(home, url)) as server:
        assert server.recommend("i1").status_code == 503
        assert server.client.get("/readyz").status_code == 503
        wire.mend()
        wait(lambda: server.recommend("i1").status_code == 200)


def test_a_database_that_was_never_upgraded_is_named_as_such(home, postgres_url):
    with serving(settings(home, postgres_url)) as server:
        response = server.client.get("/v1/runs")
        assert (response.status_code, "db upgrade" in response.json()["detail"]) == (503, True)
