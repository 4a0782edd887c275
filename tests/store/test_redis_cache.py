import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest
import redis

from recsys_meta.errors import StoreError
from recsys_meta.store.breaker import Breaker
from recsys_meta.store.cache import AsyncCache, Cache, frame
from recsys_meta.store.engine import Unavailable
from recsys_meta.store.layered_cache import LayeredCache
from recsys_meta.store.memory_cache import MemoryCache
from recsys_meta.store.redis_cache import RedisCache, SyncRedisCache
from tests.services import OwnRedis, free_port


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


def quick_breaker() -> Breaker:
    return Breaker(failures=2, pause=0.05, longest=0.1)


def test_both_speak_to_the_same_keys(redis_server: str, redis_prefix: str) -> None:
    here: Cache = SyncRedisCache(redis_server, prefix=redis_prefix)

    async def work() -> None:
        there: AsyncCache = RedisCache(redis_server, prefix=redis_prefix)
        here.set("a", b"\x00\xff", 10)
        await there.set("b", b"", 10)
        assert await there.get("a") == b"\x00\xff"
        assert here.get("b") == b""
        assert await there.get("c") is None
        assert here.get("c") is None
        assert here.delete(["a", "nothing"]) == 1
        assert await there.delete(["b"]) == 1
        assert await there.delete([]) == here.delete([]) == 0
        assert not there.degraded
        assert not here.degraded
        await there.close()

    run(work())
    here.close()


def test_time_is_over(redis_server: str, redis_prefix: str) -> None:
    cache = SyncRedisCache(redis_server, prefix=redis_prefix)
    cache.set("k", b"v", 0.05)
    cache.set("never", b"v", 0)
    assert cache.get("k") == b"v"
    time.sleep(0.08)
    assert cache.get("k") is None
    assert cache.get("never") is None
    cache.close()


def test_what_belongs_to_an_entity_goes_together(redis_server: str, redis_prefix: str) -> None:
    here = SyncRedisCache(redis_server, prefix=redis_prefix)

    async def work() -> None:
        there = RedisCache(redis_server, prefix=redis_prefix)
        for i in range(300):
            await there.set(f"mine{i}", b"1", 100, owner="me")
        await there.set("yours", b"1", 100, owner="you")
        here.set("mine-too", b"1", 100, owner="me")
        assert await there.delete_owned("me") == 301
        assert here.delete_owned("me") == 0
        assert here.get("mine7") is None
        assert here.get("yours") == b"1"
        await there.close()

    run(work())
    with redis.Redis.from_url(redis_server) as client:
        left = sorted(key.decode() for key in client.scan_iter(f"{redis_prefix}*"))
    assert left == [f"{redis_prefix}you", f"{redis_prefix}yours"]
    here.close()


def test_owner_forgets_keys_whose_time_is_over(
    redis_server: str, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the set of an entity that interacts every day would grow for ever."""
    cache = SyncRedisCache(redis_server, prefix=redis_prefix)
    cache.set("old", b"1", 100, owner="me")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 161)
    cache.set("new", b"1", 100, owner="me")
    with redis.Redis.from_url(redis_server) as client:
        assert client.zrange(f"{redis_prefix}me", 0, -1) == [f"{redis_prefix}new".encode()]
        assert client.ttl(f"{redis_prefix}me") > 29 * 24 * 3600
    cache.close()


def test_garbage_is_a_miss(redis_server: str, redis_prefix: str) -> None:
    cache = SyncRedisCache(redis_server, prefix=redis_prefix)

    async def work() -> None:
        other = RedisCache(redis_server, prefix=redis_prefix)
        with redis.Redis.from_url(redis_server) as client:
            for name, raw in {
                "a": b"",
                "b": b"garbage",
                "c": frame(b"value")[:-1],
                "d": frame(b"value") + b"!",
            }.items():
                client.set(redis_prefix + name, raw)
                assert cache.get(name) is None
                assert await other.get(name) is None
            client.rpush(f"{redis_prefix}e", b"a list")
            assert cache.get("e") is None
            assert await other.get("e") is None
        assert not cache.degraded
        await other.close()

    run(work())
    cache.close()


def test_gets_of_one_moment_travel_together(redis_server: str, redis_prefix: str) -> None:
    async def work() -> None:
        cache = RedisCache(redis_server, prefix=redis_prefix)
        sent: list[int] = []
        real = cache._client.mget

        async def counted(keys: list[str]) -> Any:
            sent.append(len(keys))
            return await real(keys)

        cache._client.mget = counted
        for i in range(0, 600, 2):
            await cache.set(str(i), str(i).encode(), 10)
        answers = await asyncio.gather(*(cache.get(str(i % 600)) for i in range(700)))
        assert answers == [None if i % 2 else str(i % 600).encode() for i in range(700)]
        assert sent == [256, 256, 188]
        await cache.close()

    run(work())


def test_caller_that_goes_away_disturbs_nobody(redis_server: str, redis_prefix: str) -> None:
    async def work() -> None:
        cache = RedisCache(redis_server, prefix=redis_prefix)
        await cache.set("k", b"v", 10)
        gone = asyncio.create_task(cache.get("k"))
        stays = asyncio.create_task(cache.get("k"))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == b"v"
        assert await cache.get("k") == b"v"
        await cache.close()

    run(work())


def test_outage_is_a_miss_and_is_over_when_redis_is_back(own_redis: OwnRedis) -> None:
    async def work() -> None:
        cache = RedisCache(own_redis.url, breaker=quick_breaker())
        await cache.set("k", b"v", 100)
        await cache.ping()
        own_redis.stop()
        for _ in range(3):
            assert await asyncio.gather(*(cache.get("k") for _ in range(50))) == [None] * 50
            await cache.set("k", b"v", 100, owner="o")
        assert cache.degraded
        with pytest.raises(Unavailable):
            await cache.delete(["k"])
        with pytest.raises(Unavailable):
            await cache.delete_owned("o")
        with pytest.raises(Unavailable):
            await cache.ping()
        start = time.monotonic()
        for _ in range(1000):
            assert await cache.get("k") is None
        assert time.monotonic() - start < 1.0
        own_redis.start()
        deadline = time.monotonic() + 5
        while await cache.get("k") is None and time.monotonic() < deadline:
            await cache.set("k", b"new", 100)
            await asyncio.sleep(0.02)
        assert await cache.get("k") == b"new"
        assert not cache.degraded
        await cache.close()

    run(work())


def test_outage_without_an_event_loop(own_redis: OwnRedis) -> None:
    cache = SyncRedisCache(own_redis.url, breaker=quick_breaker())
    cache.set("k", b"v", 100)
    cache.ping()
    own_redis.stop()
    for _ in range(3):
        assert cache.get("k") is None
        cache.set("k", b"v", 100)
    assert cache.degraded
    for call in (lambda: cache.delete(["k"]), lambda: cache.delete_owned("o"), cache.ping):
        with pytest.raises(Unavailable):
            call()
    own_redis.start()
    time.sleep(0.3)
    cache.set("k", b"v", 100)
    assert cache.get("k") == b"v"
    assert not cache.degraded
    cache.close()


def test_server_that_takes_the_call_and_never_answers() -> None:
    """A time-out must bound what a frozen Redis costs, and only for the first few callers."""

    async def work() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", free_port())
        port = server.sockets[0].getsockname()[1]
        cache = RedisCache(f"redis://127.0.0.1:{port}", timeout=0.05, breaker=Breaker(failures=2, pause=60.0))
        start = time.monotonic()
        for _ in range(20):
            assert await cache.get("k") is None
        assert time.monotonic() - start < 2.0
        assert cache.degraded
        await cache.close()
        server.close()

    run(work())


@pytest.mark.parametrize("url", ["", "http://u:secret@h", "redis://u:secret@h:port/0"])
def test_bad_url_is_refused_without_repeating_it(url: str) -> None:
    for made in (RedisCache, SyncRedisCache):
        with pytest.raises(StoreError) as caught:
            made(url)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_layers(redis_server: str, redis_prefix: str) -> None:
    async def work() -> None:
        one = LayeredCache(MemoryCache(), RedisCache(redis_server, prefix=redis_prefix))
        two = LayeredCache(MemoryCache(), RedisCache(redis_server, prefix=redis_prefix))
        await one.set("k", b"v", 10, owner="me")
        assert two.memory.get("k") is None
        assert await two.get("k", owner="me") == b"v"
        assert two.memory.get("k") == b"v"
        assert await one.delete_owned("me") == 1
        assert await one.get("k") is None
        # The other process keeps its copy until its time is over, or until it is asked itself.
        assert await two.delete_owned("me") == 1
        assert await two.get("k") is None
        await one.set("x", b"v", 10)
        assert await one.delete(["x", "y"]) == 1
        await one.close()
        await two.close()

    run(work())


def test_layers_without_a_shared_cache_or_with_one_that_is_away() -> None:
    async def work() -> None:
        away = RedisCache(f"redis://127.0.0.1:{free_port()}")
        for cache, degraded in ((LayeredCache(MemoryCache()), False), (LayeredCache(MemoryCache(), away), True)):
            await cache.set("k", b"v", 10, owner="o")
            assert await cache.get("k") == b"v"
            assert await cache.get("other") is None
            assert cache.degraded == degraded
        with pytest.raises(Unavailable):
            await cache.delete_owned("o")
        assert cache.memory.get("k") is None
        await cache.close()

    run(work())
