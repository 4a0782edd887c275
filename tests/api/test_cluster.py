"""Servers on a Redis Cluster of three nodes: states are shared, events of one are seen by the other, an erasure leaves
no key on any node, and a node that is killed while they answer costs no answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from recsys_meta.store.cache import owner_key
from recsys_meta.store.redis_cache import PREFIX
from tests.api.servers import Served, serving, settings, wait
from tests.services import OwnCluster, OwnRedis

IDS = [f"anna {n}" for n in range(24)]
RATE = "recsys-meta:rate"
Pair = tuple[Served, Served]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnCluster]:
    with OwnCluster.running(tmp_path_factory.mktemp("cluster"), 3, whole=False) as made:
        yield made


@pytest.fixture
def cluster(nodes: OwnCluster) -> OwnCluster:
    """A whole cluster that holds nothing."""
    nodes.start()
    for node in nodes.nodes:
        node.ask("FLUSHALL")
    return nodes


@pytest.fixture
def pair(home: Path, light: str, cluster: OwnCluster) -> Iterator[Pair]:
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


def tell(server: Served, ids: Sequence[str], *items: str) -> list[str]:
    """Send events of entities on many slots in one call; answers what was missing."""
    batch = [{"entity": entity, "item": item} for entity in ids for item in items]
    sent = server.client.post("/v1/events", json={"events": batch}).json()
    assert sent["accepted"] == len(batch)
    return list(sent["missing"])


def share(pair: Pair, ids: Sequence[str], size: int) -> dict[str, list[str]]:
    """What one server adapts the other finds. Answers the lists."""
    one, two = pair
    with ThreadPoolExecutor(8) as pool:
        here = list(pool.map(lambda entity: ask(one, entity), ids))
        assert {(found[0], found[2]) for found in here} == {(size, "miss")}
        wait(lambda: not one.house.ladder.writing)
        there = list(pool.map(lambda entity: ask(two, entity), ids))
    assert {found[:3] for found in there} == {(size, "cache", "redis")}
    assert [found[3] for found in there] == [found[3] for found in here]
    return {entity: found[3] for entity, found in zip(ids, here, strict=True)}


def names_of(cluster: OwnCluster, entity: str) -> list[set[str]]:
    """What each node holds of an entity."""
    return [{name for name in names if owner_key("user", entity) in name} for names in cluster.names()]


def test_two_servers_share_a_cluster(pair: Pair, cluster: OwnCluster) -> None:
    one, two = pair
    assert tell(one, IDS, "i3", "i14") == []
    share(pair, IDS, 2)
    # Every server's copies are out of date at once.
    assert tell(one, IDS, "i70") == []
    share(pair, IDS, 3)
    assert ask(two, IDS[0])[2] == "process"
    held = [names_of(cluster, entity) for entity in IDS]
    assert {sum(map(bool, nodes)) for nodes in held} == {1}, "all of an entity lies on one node"
    assert all(any(nodes[n] for nodes in held) for n in range(3)), "they lie on all nodes"
    assert two.client.delete(f"/v1/entities/user/{IDS[0]}").json()["events"] == 3
    assert {ask(server, IDS[0])[:2] for server in pair} == {(0, "prior")}
    for entity in IDS:
        assert one.client.delete(f"/v1/entities/user/{entity}").status_code == 200
    left = set[str]().union(*cluster.names())
    assert {name for name in left if not name.startswith(RATE)} == set()
    assert left, "callers are counted on the cluster, too"


def test_a_node_is_killed_while_they_answer_and_comes_back(pair: Pair, cluster: OwnCluster) -> None:
    one, two = pair
    tell(one, IDS, "i3", "i14")
    lists = share(pair, IDS, 2)
    two.house.memory.close()
    lost = the_one_that_counts(cluster)
    gone = [entity for entity in IDS if cluster.node_of(PREFIX + owner_key("user", entity)) is lost]
    left = [entity for entity in IDS if entity not in gone]
    assert gone
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(one.recommend, entity={"id": entity}) for entity in IDS * 10]
        wait(asked[len(asked) // 4].done)
        lost.stop()
        for entity, answer in zip(IDS * 10, asked, strict=True):
            check(answer.result(), lists[entity])
    # A server that holds none of it finds what lies on the nodes that are left, and makes the rest anew.
    assert {check(two.recommend(entity={"id": entity}), lists[entity]) for entity in left} == {("cache", "redis")}
    assert {check(two.recommend(entity={"id": entity}), lists[entity]) for entity in gone} == {("adapted", "miss")}
    ready = one.client.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]["redis"]["ok"]) == (200, False)
    # Events are stored, and seen at once wherever the entity lies.
    assert tell(one, IDS, "i70") == ["redis"]
    for server in pair:
        answers = [server.recommend(entity={"id": entity}) for entity in IDS]
        assert {(answer.status_code, answer.json()["support_size"]) for answer in answers} == {(200, 3)}
    held = set[str]().union(*cluster.names())
    assert {PREFIX + owner_key("user", entity) for entity in left} <= held, "these need not be read from SQL each time"
    assert one.client.delete(f"/v1/entities/user/{left[0]}").status_code == 200
    refused = one.client.delete(f"/v1/entities/user/{gone[0]}")
    assert (refused.status_code, "ask again" in refused.json()["detail"]) == (503, True)
    cluster.start()
    wait(lambda: not any(server.house.redis.degraded for server in pair))
    assert one.client.delete(f"/v1/entities/user/{gone[0]}").status_code == 200
    assert not any(names_of(cluster, left[0]) + names_of(cluster, gone[0]))
    stayed = left[1:] + gone[1:]
    assert tell(two, stayed, "i20") == []
    share(pair, stayed, 4)


def the_one_that_counts(cluster: OwnCluster) -> OwnRedis:
    """The node on which the requests of this caller are counted."""
    (found,) = (
        node
        for node, names in zip(cluster.nodes, cluster.names(), strict=True)
        if any(name.startswith(RATE) for name in names)
    )
    return found


def check(answer, expected: list[str]) -> tuple[str, str]:
    """An answer as it was before, whatever is missing; answers where it is from."""
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [item["item"] for item in found["items"]] == expected
    assert found["missing"] in ([], ["redis"])
    return found["served_by"], answer.headers["x-cache"]
