"""Servers on a Redis Cluster of three nodes: states are shared, events of one are seen by the other, an erasure leaves
no key on any node. A node that is killed or hangs while they answer costs no answer, nor do slots that move to another
node, nor a replica that takes the place of its node; and all is well again without a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from recsys_meta.store.cache.keys import owner_key
from recsys_meta.store.cache.redis_cache import PREFIX
from tests.api.servers import Served, serving, settings, wait
from tests.fixtures.services import OwnCluster, OwnRedis

pytestmark = pytest.mark.slow

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
def changing(tmp_path: Path) -> Iterator[OwnCluster]:
    """One of the test's own, which is another one afterwards."""
    with OwnCluster.running(tmp_path / "changing", 3, whole=False) as made:
        yield made


@pytest.fixture
def pair(home: Path, light: str, cluster: OwnCluster) -> Iterator[Pair]:
    with pair_on(home, light, cluster) as made:
        yield made


@contextmanager
def pair_on(home: Path, light: str, cluster: OwnCluster) -> Iterator[Pair]:
    """Two servers of one database, as two processes are, with a limit on requests."""
    with one_on(home, light, cluster) as one, one_on(home, light, cluster) as two:
        yield one, two


@contextmanager
def one_on(home: Path, light: str, cluster: OwnCluster) -> Iterator[Served]:
    made = settings(home, light, cluster.url)
    made.rate_limit = "100000/minute"
    with serving(made) as server:
        yield server


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
        wait(lambda: not one.container.cache_writer.pending)
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
    erase(one, cluster, IDS)
    assert any(cluster.names()), "callers are counted on the cluster, too"


def test_a_node_is_killed_while_they_answer_and_comes_back(pair: Pair, cluster: OwnCluster) -> None:
    one, two = pair
    tell(one, IDS, "i3", "i14")
    lists = share(pair, IDS, 2)
    two.container.memory.close()
    lost = the_one_that_counts(cluster)
    gone, left = parted(cluster, lost)
    with asking(one, lists) as asked:
        wait(asked[len(asked) // 4].done)
        lost.stop()
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
    wait(lambda: not any(server.container.redis.degraded for server in pair))
    assert one.client.delete(f"/v1/entities/user/{gone[0]}").status_code == 200
    assert not any(names_of(cluster, left[0]) + names_of(cluster, gone[0]))
    stayed = left[1:] + gone[1:]
    assert tell(two, stayed, "i20") == []
    share(pair, stayed, 4)


def test_a_node_hangs_while_they_answer_and_goes_on(
    home: Path, light: str, cluster: OwnCluster, hasty: Callable[[str], None]
) -> None:
    hasty("redis")
    with pair_on(home, light, cluster) as (one, two):
        tell(one, IDS, "i3", "i14")
        wait(lambda: shared(one, two, IDS, 2))
        lists = {entity: items(one, entity) for entity in IDS}
        lost = the_one_that_counts(cluster)
        gone, left = parted(cluster, lost)
        with asking(one, lists) as asked:
            wait(asked[len(asked) // 4].done)
            lost.hang()
        # What lies on the other nodes comes from there, what lies on this one is made anew.
        wait(lambda: shared(one, two, left, 2))
        two.container.memory.close()
        assert {check(two.recommend(entity={"id": entity}), lists[entity]) for entity in gone} == {("adapted", "miss")}
        ready = one.client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["redis"]["ok"]) == (200, False)
        assert tell(one, IDS, "i70") == ["redis"]
        assert one.client.delete(f"/v1/entities/user/{gone[0]}").status_code == 503
        wait(lambda: {found(server, entity)[0] for server in (one, two) for entity in left + gone[1:]} == {3})
        lost.go_on()
        wait(lambda: not any(server.container.redis.degraded for server in (one, two)))
        wait(lambda: one.client.delete(f"/v1/entities/user/{gone[0]}").status_code == 200)
        assert not any(names_of(cluster, gone[0]))
        # What it was not told while it hung it is told now.
        wait(lambda: shared(one, two, left + gone[1:], 3))


def test_slots_move_to_a_new_node_while_they_answer(home: Path, light: str, changing: OwnCluster) -> None:
    with pair_on(home, light, changing) as (one, two):
        pair = one, two
        tell(one, IDS, "i3", "i14")
        lists = share(pair, IDS, 2)
        going = {PREFIX + owner_key("user", entity) for entity in IDS[::2]}
        counts = {name for names in changing.names() for name in names if name.startswith(RATE)}
        new = changing.add()
        with asking(one, lists) as asked:
            wait(asked[len(asked) // 4].done)
            with changing.moving(going | counts, new):
                # On their way they are shared as ever, also with a server that knows the new node from nowhere.
                with one_on(home, light, changing) as late:
                    for server in (two, late):
                        server.container.memory.close()
                        answers = [server.recommend(entity={"id": entity}) for entity in IDS]
                        assert {check(answer, lists[entity]) for entity, answer in zip(IDS, answers, strict=True)} == {
                            ("cache", "redis")
                        }
                assert one.client.delete(f"/v1/entities/user/{IDS[0]}").status_code == 200
                assert not any(names_of(changing, IDS[0]))
        stayed = IDS[1:]
        assert tell(two, stayed, "i70") == []
        share(pair, stayed, 3)
        assert [bool(names_of(changing, entity)[-1]) for entity in stayed] == [entity in IDS[::2] for entity in stayed]
        assert not any(server.container.redis.degraded for server in pair)
        erase(one, changing, stayed)


def test_a_replica_takes_the_place_of_its_node_while_they_answer(home: Path, light: str, changing: OwnCluster) -> None:
    with pair_on(home, light, changing) as (one, two):
        pair = one, two
        tell(one, IDS, "i3", "i14")
        lists = share(pair, IDS, 2)
        lost = the_one_that_counts(changing)
        gone, _ = parted(changing, lost)
        replica = changing.replica(lost)
        with asking(one, lists) as asked:
            wait(asked[len(asked) // 4].done)
            lost.stop()
            wait(asked[len(asked) // 2].done)
            changing.promote(replica, lost)
        # The node that was lost is none of theirs.
        wait(lambda: not any(server.container.redis.degraded for server in pair))
        assert tell(two, IDS, "i70") == []
        share(pair, IDS, 3)
        place = changing.nodes.index(replica)
        assert all(names_of(changing, entity)[place] for entity in gone)
        erase(one, changing, IDS)


@contextmanager
def asking(server: Served, lists: dict[str, list[str]]) -> Iterator[list[Future[httpx.Response]]]:
    """Many requests at once. In the end each was answered as it should be."""
    entities = [*lists] * 10
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.recommend, entity={"id": entity}) for entity in entities]
        yield asked
        for entity, answer in zip(entities, asked, strict=True):
            check(answer.result(), lists[entity])


def shared(one: Served, two: Served, ids: Sequence[str], size: int) -> bool:
    """Whether what one server finds or makes is found by the other, where neither holds any of it. What is late by a
    time-out is not, so that it may need to be asked again."""
    one.container.memory.close()
    here = [found(one, entity) for entity in ids]
    wait(lambda: not one.container.cache_writer.pending)
    two.container.memory.close()
    there = [found(two, entity) for entity in ids]
    return {answer[0] for answer in here} == {size} and set(there) == {(size, "cache", "redis")}


def found(server: Served, entity: str) -> tuple[int, str, str]:
    answer = server.recommend(entity={"id": entity})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    return told["support_size"], told["served_by"], answer.headers["x-cache"]


def items(server: Served, entity: str) -> list[str]:
    return [item["item"] for item in server.recommend(entity={"id": entity}).json()["items"]]


def parted(cluster: OwnCluster, node: OwnRedis) -> tuple[list[str], list[str]]:
    """The entities on a node, and the others."""
    here = [entity for entity in IDS if cluster.node_of(PREFIX + owner_key("user", entity)) is node]
    assert here
    return here, [entity for entity in IDS if entity not in here]


def erase(server: Served, cluster: OwnCluster, ids: Sequence[str]) -> None:
    """Nothing of anybody is left on any node."""
    for entity in ids:
        assert server.client.delete(f"/v1/entities/user/{entity}").status_code == 200
    assert {name for names in cluster.names() for name in names if not name.startswith(RATE)} == set()


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
