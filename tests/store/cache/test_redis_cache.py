import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from recsys_meta.core.errors import StoreError
from recsys_meta.store.cache.circuit_breaker import CircuitBreaker
from recsys_meta.store.cache.keys import SLOTS, owned_names, owner_key, seal_value, state_key
from recsys_meta.store.cache.redis_cache import PREFIX, RedisCache, SyncRedisCache
from recsys_meta.store.cache.redis_connection import Command
from recsys_meta.store.database.engine import StoreUnavailable
from tests.fixtures.services import PATIENCE_S, OwnRedis, free_port, wait


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, PATIENCE_S))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an answer that is late would pass for an outage: caches wait longer than by themselves."""
    for kind in (RedisCache, SyncRedisCache):
        monkeypatch.setitem(kind.__init__.__kwdefaults__, "timeout", 10.0)


def quick_breaker() -> CircuitBreaker:
    return CircuitBreaker(failures=2, pause=0.05, max_pause=0.1)


def test_both_speak_to_the_same_keys(redis_server: str, redis_prefix: str) -> None:
    here = SyncRedisCache(redis_server, prefix=redis_prefix)

    async def work() -> None:
        there = RedisCache(redis_server, prefix=redis_prefix)
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
    cache.set("long", b"v", 50)
    cache.set("never", b"v", 0)
    wait(lambda: cache.get("k") is None)
    assert cache.get("long") == b"v"
    assert cache.get("never") is None
    with redis.Redis.from_url(redis_server) as client:
        assert 0 < client.pttl(f"{redis_prefix}long") <= 50_000
    cache.close()


def test_what_belongs_to_an_entity_goes_together(redis_server: str, redis_prefix: str) -> None:
    here = SyncRedisCache(redis_server, prefix=redis_prefix)
    me, you = owner_key("user", "me"), owner_key("user", "you")
    mine = [state_key("v", "user", "me", str(n)) for n in range(300)]
    yours = state_key("v", "user", "you", "0")

    async def work() -> None:
        there = RedisCache(redis_server, prefix=redis_prefix)
        await there.set(me, b"17", 100)
        for key in mine:
            await there.set(key, key.encode(), 100)
        here.set(yours, b"1", 100)
        # However much an entity interacts, it holds no more than its slots; what was pushed out is a miss.
        found = [here.get(key) for key in mine]
        assert {key.encode() if value else None for key, value in zip(mine, found, strict=True)} == {*found}
        assert sum(value is not None for value in found) == len(SLOTS)
        assert await there.get(me) == b"17"
        assert await there.delete_owned(me) == len(SLOTS) + 1
        assert here.delete_owned(me) == 0
        assert [here.get(key) for key in (*mine, me)] == [None] * 301
        assert here.get(yours) == b"1"
        await there.close()

    run(work())
    with redis.Redis.from_url(redis_server) as client:
        left = [key.decode() for key in client.scan_iter(f"{redis_prefix}*")]
    assert left == [redis_prefix + yours.partition("#")[0]]
    assert left[0].startswith(redis_prefix + you)
    here.close()


def test_names_of_an_entity_lie_on_one_node_of_a_cluster() -> None:
    for n in range(50):
        names = owned_names(owner_key("user", f"u{n}"))
        assert len({key_slot((PREFIX + name).encode()) for name in names}) == 1
    owners = {key_slot((PREFIX + owner_key("user", f"u{n}")).encode()) for n in range(200)}
    assert len(owners) > 190
    # Nobody's states are not all on the same node.
    nobodies = [state_key("v", "user", "", str(n)).partition("#")[0] for n in range(200)]
    assert len({key_slot((PREFIX + name).encode()) for name in nobodies}) > 190


def test_a_server_that_cannot_be_written_is_still_read(own_redis: OwnRedis) -> None:
    """A replica refuses to be written; a full server does too, but lets go of what it has."""

    async def work(refuse: list[str], allow: list[str]) -> None:
        cache = RedisCache(own_redis.url, breaker=quick_breaker())
        with redis.Redis.from_url(own_redis.url) as client:
            await cache.set("k#", b"v", 100)
            client.execute_command(*refuse)
            for _ in range(5):
                await cache.set("other#", b"v", 100)
                assert cache.degraded
                assert await cache.get("k#") == b"v"
                with pytest.raises(StoreUnavailable):
                    await cache.ping()
            client.execute_command(*allow)
            await cache.ping()
            assert not cache.degraded
            await cache.set("other#", b"v", 100)
            assert await cache.get("other#") == b"v"
        await cache.close()

    run(work(["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]))
    run(work(["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]))


@pytest.mark.parametrize("answer", [b"garbage\r\n", b"+OK\r\n", b":7\r\n", b"*2\r\n:1\r\n:2\r\n", b"*1\r\n:1\r\n"])
def test_a_stranger_on_the_port_is_an_outage(answer: bytes) -> None:
    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(answer)

    async def work() -> None:
        port = free_port()
        server = await asyncio.start_server(stranger, "127.0.0.1", port)
        cache = RedisCache(f"redis://127.0.0.1:{port}", breaker=quick_breaker())
        for _ in range(3):
            assert await asyncio.gather(*(cache.get(f"k{n}#") for n in range(5))) == [None] * 5
        await cache.set("k#", b"v", 100)
        assert cache.degraded
        await cache.close()
        server.close()

    run(work())


def test_garbage_is_a_miss(redis_server: str, redis_prefix: str) -> None:
    cache = SyncRedisCache(redis_server, prefix=redis_prefix)

    async def work() -> None:
        other = RedisCache(redis_server, prefix=redis_prefix)
        with redis.Redis.from_url(redis_server) as client:
            for name, raw in {
                "a": b"",
                "b": b"garbage",
                "c": seal_value("c", b"value")[:-1],
                "d": seal_value("d", b"value") + b"!",
                "e": seal_value("d", b"value"),
            }.items():
                client.set(redis_prefix + name, raw)
                assert cache.get(name) is None
                assert await other.get(name) is None
            client.rpush(f"{redis_prefix}f", b"a list")
            assert cache.get("f") is None
            assert await other.get("f") is None
            cache.set("f", b"v", 10)
            assert cache.get("f") == b"v"
        assert not cache.degraded
        await other.close()

    run(work())
    cache.close()


def test_gets_of_one_moment_travel_together(redis_server: str, redis_prefix: str) -> None:
    async def work() -> None:
        cache = RedisCache(redis_server, prefix=redis_prefix)
        sent: list[int] = []
        reads = cache._kept[0]
        real = reads.exchange

        async def counted(commands: Sequence[Command]) -> list[Any]:
            ((name, *keys),) = commands
            assert name == "MGET"
            sent.append(len(keys))
            return await real(commands)

        reads.exchange = counted  # type: ignore[method-assign]
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
        with pytest.raises(StoreUnavailable):
            await cache.delete(["k"])
        with pytest.raises(StoreUnavailable):
            await cache.delete_owned("o")
        with pytest.raises(StoreUnavailable):
            await cache.ping()
        own_redis.start()
        while await cache.get("k") is None:
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
        with pytest.raises(StoreUnavailable):
            call()
    own_redis.start()
    wait(lambda: cache.set("k", b"v", 100) or cache.get("k") == b"v")
    assert not cache.degraded
    cache.close()


def test_server_that_takes_the_call_and_never_answers() -> None:
    """A time-out must bound what a frozen Redis costs, and only for the first few callers."""
    taken: list[object] = []

    async def work() -> None:
        server = await asyncio.start_server(lambda *ends: taken.append(ends), "127.0.0.1", free_port())
        port = server.sockets[0].getsockname()[1]
        cache = RedisCache(f"redis://127.0.0.1:{port}", timeout=0.05, breaker=CircuitBreaker(failures=2, pause=60.0))
        for _ in range(20):
            assert await cache.get("k") is None
        assert len(taken) == 2
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


def test_of_two_who_claim_a_key_both_get_what_the_first_one_kept(redis_server: str, redis_prefix: str) -> None:
    async def work() -> None:
        one, two = (RedisCache(redis_server, prefix=redis_prefix) for _ in range(2))
        key = owner_key("user", "claimed")
        assert await one.claim(key, b"1", 60) == b"1"
        assert await two.claim(key, b"2", 60) == b"1"
        await one._client.set(redis_prefix + key, b"garbage")
        assert await two.claim(key, b"3", 60) == b"3"
        assert await one.get(key) == b"3"
        await one.close()
        await two.close()

    asyncio.run(asyncio.wait_for(work(), PATIENCE_S))
