"""The cache on a Redis Cluster: one real node that has all slots, and refuses what crosses them all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from recsys_meta.store.breaker import Breaker
from recsys_meta.store.cache import owner_key, state_key
from recsys_meta.store.engine import Unavailable
from recsys_meta.store.redis_cache import RedisCache, SyncRedisCache
from tests.services import OwnCluster

MANY = 40


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[OwnCluster]:
    with OwnCluster.running(tmp_path) as made:
        yield made


def test_the_node_refuses_what_crosses_slots(cluster: OwnCluster) -> None:
    with redis.Redis(port=cluster.port) as client, pytest.raises(redis.ResponseError, match=r"CROSSSLOT|same slot"):
        client.mget(["a", "b"])


def test_both_clients_work_on_a_cluster(cluster: OwnCluster) -> None:
    here = SyncRedisCache(cluster.url)
    owners = [owner_key("user", f"u{n}") for n in range(MANY)]
    states = [state_key("v", "user", f"u{n}", "digest") for n in range(MANY)]

    async def work() -> None:
        there = RedisCache(cluster.url, timeout=2.0)
        await there.ping()
        await asyncio.gather(*(there.set(key, b"17", 100) for key in owners))
        for key in states:
            here.set(key, key.encode(), 100)
        # Asked for at once they travel together, whatever slots they lie on.
        found = await asyncio.gather(*(there.get(key) for key in (*states, *owners, "nothing#")))
        assert found == [*(key.encode() for key in states), *[b"17"] * MANY, None]
        assert here.get(states[0]) == states[0].encode()
        # As after a batch of events of many entities.
        assert await there.delete(owners) == MANY
        assert await there.delete_owned(owners[0]) == 1
        assert here.delete_owned(owners[1]) == 1
        assert here.delete(states[2:4]) == 2
        assert not there.degraded
        assert not here.degraded
        await there.close()

    asyncio.run(asyncio.wait_for(work(), 30))
    here.close()


def test_a_cluster_that_goes_is_noticed_and_comes_back(cluster: OwnCluster) -> None:
    async def work() -> None:
        cache = RedisCache(cluster.url, breaker=Breaker(failures=1, pause=0.05, longest=0.1))
        here = SyncRedisCache(cluster.url, breaker=Breaker(failures=1, pause=0.05, longest=0.1))
        await cache.set("k#", b"v", 100)
        assert here.get("k#") == b"v"
        cluster.stop()
        assert await cache.get("k#") is None
        assert cache.degraded
        assert here.get("k#") is None
        assert here.degraded
        for ask in (cache.ping, lambda: cache.delete_owned(owner_key("user", "u"))):
            with pytest.raises(Unavailable):
                await ask()
        for again in (here.ping, lambda: here.delete_owned(owner_key("user", "u"))):
            with pytest.raises(Unavailable):
                again()
        cluster.start()
        found: list[bytes | None] = []
        for _ in range(50):
            await asyncio.sleep(0.1)
            await cache.set("k#", b"new", 100)
            found = [await cache.get("k#"), here.get("k#")]
            if None not in found:
                break
        assert found == [b"new", b"new"]
        await cache.close()
        here.close()

    asyncio.run(asyncio.wait_for(work(), 30))
