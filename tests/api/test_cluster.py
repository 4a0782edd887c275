"""Servers on a Redis Cluster: states are shared, events of one are seen by the other, an erasure leaves no key."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from tests.api.servers import Served, serving, settings, wait
from tests.services import OwnCluster

IDS = [f"anna {n}" for n in range(24)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[OwnCluster]:
    with OwnCluster.running(tmp_path) as made:
        yield made


@pytest.fixture
def pair(home: Path, light: str, cluster: OwnCluster) -> Iterator[tuple[Served, Served]]:
    """Two servers of one database, as two processes are, with a limit on requests."""
    made = settings(home, light, cluster.url)
    made.rate_limit = "100000/minute"
    with ExitStack() as stack:
        one, two = (stack.enter_context(serving(made)) for _ in range(2))
        yield one, two


def ask(server: Served, entity: str) -> tuple[int, str, str, list[str]]:
    answer = server.recommend(entity={"id": entity})
    found = answer.json()
    assert (answer.status_code, found["missing"]) == (200, [])
    return found["support_size"], found["served_by"], answer.headers["x-cache"], [i["item"] for i in found["items"]]


def test_two_servers_share_a_cluster(pair: tuple[Served, Served], cluster: OwnCluster) -> None:
    one, two = pair
    batch = [{"entity": entity, "item": item} for entity in IDS for item in ("i3", "i14")]
    with ThreadPoolExecutor(8) as pool:
        for size in (2, 3):
            # Events of entities on many slots, in one call: every server's copies are out of date at once.
            sent = one.client.post("/v1/events", json={"events": batch}).json()
            assert (sent["accepted"], sent["missing"]) == (len(batch), [])
            here = list(pool.map(lambda entity: ask(one, entity), IDS))
            assert {(found[0], found[2]) for found in here} == {(size, "miss")}
            wait(lambda: not one.house.ladder.writing)
            there = list(pool.map(lambda entity: ask(two, entity), IDS))
            assert {found[:3] for found in there} == {(size, "cache", "redis")}
            assert [found[3] for found in there] == [found[3] for found in here]
            assert ask(two, IDS[0])[2] == "process"
            batch = [{"entity": entity, "item": "i70"} for entity in IDS]
    assert two.client.delete(f"/v1/entities/user/{IDS[0]}").json()["events"] == 3
    assert {ask(server, IDS[0])[:2] for server in pair} == {(0, "prior")}
    for entity in IDS:
        assert one.client.delete(f"/v1/entities/user/{entity}").status_code == 200
    with redis.Redis(port=cluster.port) as client:
        left = {key for key in client.keys("*") if not key.startswith(b"recsys-meta:rate")}
        assert left == set()
        assert client.keys("recsys-meta:rate*"), "callers are counted on the cluster, too"
    assert one.client.get("/readyz").json()["checks"]["redis"]["ok"] is True
    cluster.stop()
    wait(lambda: one.recommend("i1").json()["missing"] == ["redis"], 5)
    cluster.start()
    wait(lambda: not one.recommend("i1").json()["degraded"], 8)
