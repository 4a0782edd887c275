"""The cache on real Redis Clusters: of one node that has all slots, and of three that share them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from recsys_meta.store.cache.circuit_breaker import CircuitBreaker
from recsys_meta.store.cache.keys import LISTS, SLOTS, list_key, owned_names, owner_key, state_key
from recsys_meta.store.cache.redis_cache import PREFIX, RedisCache, SyncRedisCache
from recsys_meta.store.database.engine import StoreUnavailable
from tests.fixtures.services import OwnCluster

# two clusters of three real servers take a quarter of a minute to stand up
pytestmark = pytest.mark.slow

MANY = 40
OWNERS = [owner_key("user", f"u{n}") for n in range(MANY)]
STATES = [state_key("v", "user", f"u{n}", "digest") for n in range(MANY)]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnCluster]:
    """Three nodes of which all refuse where one is lost, as Redis has it by itself."""
    with OwnCluster.running(tmp_path_factory.mktemp("three"), 3) as made:
        yield made


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnCluster]:
    """Three nodes that go on where one is lost."""
    with OwnCluster.running(tmp_path_factory.mktemp("alone"), 3, whole=False) as made:
        yield made


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 120))


def patient(cluster: OwnCluster, failures: int = 1) -> RedisCache:
    """A cache to which a slow machine is no outage, and that soon tries again after one."""
    return RedisCache(cluster.url, timeout=10.0, breaker=CircuitBreaker(failures, pause=0.05, max_pause=0.1))


def on(cluster: OwnCluster, keys: list[str]) -> list[list[str]]:
    """The keys by the node that they lie on."""
    return [[key for key in keys if cluster.node_of(PREFIX + key) is node] for node in cluster.nodes]


def test_a_node_refuses_what_crosses_slots(three: OwnCluster) -> None:
    with pytest.raises(redis.ResponseError, match=r"CROSSSLOT|same slot"):
        three.nodes[0].ask("MGET", "a", "b")
    with pytest.raises(redis.exceptions.MovedError):
        three.nodes[2].ask("GET", on(three, OWNERS)[0][0])


@pytest.mark.parametrize("nodes", [1, 3])
def test_both_clients_work_on_a_cluster(nodes: int, three: OwnCluster, tmp_path: Path) -> None:
    if nodes == 3:
        both_work(three)
        return
    with OwnCluster.running(tmp_path) as one:
        both_work(one)


def both_work(cluster: OwnCluster) -> None:
    here = SyncRedisCache(cluster.url, timeout=10.0)

    async def work() -> None:
        there = patient(cluster)
        await there.ping()
        # Claimed, sent and asked for at once, whatever slots and nodes they lie on.
        assert set(await asyncio.gather(*(there.claim(key, b"17", 100) for key in OWNERS))) == {b"17"}
        assert set(await asyncio.gather(*(there.claim(key, b"18", 100) for key in OWNERS))) == {b"17"}
        await there.set_all([(key, key.encode(), 100) for key in STATES[::2]])
        for key in STATES[1::2]:
            here.set(key, key.encode(), 100)
        found = await asyncio.gather(*(there.get(key) for key in (*STATES, *OWNERS, "nothing#")))
        assert found == [*(key.encode() for key in STATES), *[b"17"] * MANY, None]
        assert [here.get(key) for key in STATES] == [key.encode() for key in STATES]
        assert [len(names) for names in cluster.names()] == [2 * len(keys) for keys in on(cluster, OWNERS)]
        # As after a batch of events of many entities.
        assert await there.delete(OWNERS) == MANY
        assert await there.delete_owned(OWNERS[0]) == 1
        assert here.delete_owned(OWNERS[1]) == 1
        assert here.delete(STATES[2:4]) == 2
        assert await there.delete(STATES) == MANY - 4
        assert not any(cluster.names())
        assert not there.degraded
        assert not here.degraded
        await there.close()

    run(work())
    here.close()


def test_all_of_an_entity_lies_on_one_node_and_goes_from_there(three: OwnCluster) -> None:
    async def work() -> None:
        cache = patient(three)
        keys = {f"u{n}": [OWNERS[n]] for n in range(12)}
        for name, kept in keys.items():
            kept += [state_key("v", "user", name, str(n)) for n in range(300)]
            kept += [list_key("m", "v", "user", name, "17", str(n).encode()) for n in range(100)]
            await cache.set_all([(key, b"17", 100) for key in kept])
        for name in keys:
            mine = {PREFIX + one for one in owned_names(owner_key("user", name))}
            assert sorted(len(mine & names) for names in three.names()) == [0, 0, 1 + len(SLOTS) + len(LISTS)]
            assert await cache.delete_owned(owner_key("user", name)) == len(mine)
            assert not any(mine & names for names in three.names())
        assert not any(three.names())
        await cache.close()

    assert all(on(three, OWNERS[:12])), "they lie on all nodes"
    run(work())


async def until_well(cache: RedisCache) -> None:
    """As a server does that asks now and then."""
    while cache.degraded:
        await asyncio.sleep(0.02)
        try:
            await cache.ping()
        except StoreUnavailable:
            assert cache.degraded


@pytest.mark.parametrize("number", [0, 2])  # the first is the one that a client asks what is of no node
def test_a_node_that_is_lost_costs_nobody_the_others(alone: OwnCluster, number: int) -> None:
    lost = alone.nodes[number]
    parts = on(alone, OWNERS)
    gone = parts.pop(number)
    left = [key for part in parts for key in part]

    async def work() -> None:
        cache = patient(alone, failures=2)
        await cache.set_all([(key, b"17", 100) for key in OWNERS])
        lost.stop()
        for word in (b"1", b"2", b"3", b"4", b"5"):
            # Together and one by one, and however often a server asks whether all is well.
            await cache.set_all([(key, word, 100) for key in OWNERS])
            found = dict(zip(OWNERS, await asyncio.gather(*(cache.get(key) for key in OWNERS)), strict=True))
            assert found == {**dict.fromkeys(left, word), **dict.fromkeys(gone)}
            assert [await cache.get(key) for key in left] == [word] * len(left)
            assert await asyncio.gather(*(cache.get(key) for key in (gone[0], left[0]))) == [None, word]
            assert [await cache.claim(key, b"18", 100) for key in (gone[0], left[0])] == [None, word]
            assert (cache.degraded, cache.is_unavailable(gone[0]), cache.is_unavailable(left[0])) == (True, True, False)
            with pytest.raises(StoreUnavailable):
                await cache.ping()
        # What can be deleted is, and that not all could be is said.
        with pytest.raises(StoreUnavailable):
            await cache.delete(OWNERS[: MANY // 2])
        with pytest.raises(StoreUnavailable):
            await cache.delete_owned(gone[0])
        kept = [key for key in OWNERS[MANY // 2 :] if key in left]
        assert [key for key in left if await cache.get(key)] == [key for key in left if key in kept]
        assert await cache.delete(kept) == len(kept)
        alone.start()
        await until_well(cache)
        await cache.set_all([(key, b"20", 100) for key in OWNERS])
        assert await asyncio.gather(*(cache.get(key) for key in OWNERS)) == [b"20"] * MANY
        assert await cache.delete(OWNERS) == MANY
        await cache.close()

    run(work())


@pytest.mark.parametrize("number", [0, 2])  # the first is also the one that a client asks by itself
def test_who_starts_while_a_node_is_lost_uses_the_others(alone: OwnCluster, number: int) -> None:
    async def work() -> None:
        before = patient(alone)
        await before.set_all([(key, b"17", 100) for key in OWNERS])
        lost = alone.nodes[number]
        lost.stop()
        cache = RedisCache(f"redis+cluster://127.0.0.1:{alone.nodes[1].port}", timeout=10.0)
        with suppress(StoreUnavailable):  # as a server asks before it serves
            await cache.ping()
        for _ in range(2):
            found = dict(zip(OWNERS, await asyncio.gather(*(cache.get(key) for key in OWNERS)), strict=True))
            assert found == {key: None if alone.node_of(PREFIX + key) is lost else b"17" for key in OWNERS}
            with pytest.raises(StoreUnavailable):
                await cache.ping()
        alone.start()
        await until_well(cache)
        assert await asyncio.gather(*(cache.claim(key, b"18", 100) for key in OWNERS)) == [
            b"18" if alone.node_of(PREFIX + key) is lost else b"17" for key in OWNERS
        ]
        assert await cache.delete(OWNERS) == MANY
        await before.close()
        await cache.close()

    run(work())


def test_the_command_line_erases_while_a_slot_is_on_its_way(three: OwnCluster) -> None:
    here = SyncRedisCache(three.url, timeout=10.0)
    owner, state = OWNERS[0], STATES[0]
    to = next(node for node in three.nodes if node is not three.node_of(PREFIX + owner))
    here.set(owner, b"17", 100)
    here.set(state, b"state", 100)
    plain = redis.RedisCluster.from_url(three.url.replace("+cluster", ""))
    with three.moving([PREFIX + owner], to):
        with pytest.raises(redis.RedisError):  # several at once are refused
            plain.delete(*(PREFIX + name for name in owned_names(owner)))
        assert here.delete_owned(owner) == 2
    assert not any(three.names())
    for client in (here, plain):
        client.close()


def test_a_cluster_that_refuses_and_then_is_gone_comes_back(three: OwnCluster) -> None:
    here = SyncRedisCache(three.url, timeout=10.0, breaker=CircuitBreaker(failures=1, pause=0.05, max_pause=0.1))

    async def away(cache: RedisCache) -> None:
        assert set(await asyncio.gather(*(cache.get(key) for key in OWNERS))) == {None}
        await cache.set_all([(key, b"18", 100) for key in OWNERS])
        assert here.get(OWNERS[0]) is None
        for ask in (cache.ping, lambda: cache.delete_owned(OWNERS[0])):
            with pytest.raises(StoreUnavailable):
                await ask()
        with pytest.raises(StoreUnavailable):
            here.delete_owned(OWNERS[0])
        assert all(cache.is_unavailable(key) for key in OWNERS), "no node is well that answers, but refuses"
        assert here.degraded

    async def work() -> None:
        cache = patient(three)
        await cache.set_all([(key, b"17", 100) for key in OWNERS])
        assert here.get(OWNERS[0]) == b"17"
        # By itself a cluster that has lost a node refuses everything: its other nodes answer, but not what is asked.
        three.lose(three.nodes[1])
        await away(cache)
        three.stop()
        await away(cache)
        with pytest.raises(StoreUnavailable):
            here.ping()
        three.start()
        await until_well(cache)
        await cache.set_all([(key, b"19", 100) for key in OWNERS])
        assert await asyncio.gather(*(cache.get(key) for key in OWNERS)) == [b"19"] * MANY
        while here.get(OWNERS[0]) is None:
            await asyncio.sleep(0.02)
        assert here.get(OWNERS[0]) == b"19"
        assert await cache.delete(OWNERS) == MANY
        await cache.close()
        here.close()

    run(work())
