"""The connection that is kept for exchanges: replies belong to their commands, whatever failed before."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
import redis.asyncio

from recsys_meta.store.cache.redis_connection import RedisConnection
from tests.fixtures.services import PATIENCE_S, OwnRedis


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, PATIENCE_S))


def test_an_error_leaves_the_replies_of_others_in_their_place(redis_server: str, redis_prefix: str) -> None:
    async def work() -> None:
        client = redis.asyncio.Redis.from_url(redis_server)
        connection = RedisConnection(client, 10.0, 10.0)
        a, b = redis_prefix + "a", redis_prefix + "\u00e4 b"
        assert await connection.exchange([("SET", a, b"\x00\r\n$"), ("SET", b, 7, "PX", 10_000)]) == [b"OK"] * 2
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            await connection.exchange([("GET", a), ("LPUSH", a, "x"), ("GET", b)])
        assert await connection.exchange([("MGET", a, b), ("DEL", a, b)]) == [[b"\x00\r\n$", b"7"], 2]
        await connection.close()
        await client.aclose()

    run(work())


def test_a_reply_that_came_too_late_is_no_reply_to_the_next_command(own_redis: OwnRedis) -> None:
    async def work() -> None:
        client = redis.asyncio.Redis.from_url(own_redis.url)
        connection, other = RedisConnection(client, 0.2, 10.0), RedisConnection(client, 10.0, 10.0)
        await connection.exchange([("SET", "k", "late")])
        # Redis answers nobody for longer than the connection waits; what it was asked is answered afterwards.
        await other.exchange([("CLIENT", "PAUSE", 1000, "ALL")])
        with pytest.raises(TimeoutError):
            await connection.exchange([("GET", "k")])
        await other.exchange([("SET", "k", "new")])  # waits until the pause is over
        patient = RedisConnection(client, 10.0, 10.0)
        assert await patient.exchange([("GET", "k")]) == [b"new"]
        connection._timeout = 10.0
        assert await connection.exchange([("GET", "k")]) == [b"new"]
        for one in (connection, other, patient):
            await one.close()
        await client.aclose()

    run(work())


def test_a_connection_that_the_server_closed_is_opened_again(own_redis: OwnRedis) -> None:
    async def work() -> None:
        client = redis.asyncio.Redis.from_url(own_redis.url)
        connection = RedisConnection(client, 10.0, 10.0)
        await connection.exchange([("SET", "k", "v")])
        await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert await connection.exchange([("GET", "k")]) == [b"v"]
        await connection.close()
        await client.aclose()

    run(work())


def test_exchanges_wait_for_one_another(redis_server: str, redis_prefix: str) -> None:
    async def work() -> None:
        client = redis.asyncio.Redis.from_url(redis_server)
        connection = RedisConnection(client, 10.0, 10.0)
        replies = await asyncio.gather(*(connection.exchange([("ECHO", f"{redis_prefix}{n}")]) for n in range(50)))
        assert replies == [[f"{redis_prefix}{n}".encode()] for n in range(50)]
        await connection.close()
        await client.aclose()

    run(work())


def test_a_caller_that_goes_away_leaves_the_replies_of_others_in_their_place(redis_server: str) -> None:
    async def work() -> None:
        client = redis.asyncio.Redis.from_url(redis_server)
        connection = RedisConnection(client, 10.0, 10.0)
        own_id = await connection.exchange([("CLIENT", "ID")])
        gone = asyncio.create_task(connection.exchange([("ECHO", "gone"), ("ECHO", "too")]))
        stays = asyncio.create_task(connection.exchange([("ECHO", "stays")]))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == [b"stays"]
        assert await connection.exchange([("ECHO", "next"), ("CLIENT", "ID")]) == [b"next", *own_id]
        await connection.close()
        await client.aclose()

    run(work())


def test_exchanges_at_the_start_open_one_connection(own_redis: OwnRedis) -> None:
    async def work() -> None:
        client = redis.asyncio.Redis.from_url(own_redis.url)
        connection = RedisConnection(client, 10.0, 10.0)
        ids = await asyncio.gather(*(connection.exchange([("CLIENT", "ID")]) for _ in range(20)))
        assert len({one for (one,) in ids}) == 1
        await connection.close()
        await client.aclose()

    run(work())


def test_what_waits_fails_when_the_server_goes_away(own_redis: OwnRedis) -> None:
    async def work() -> None:
        client = redis.asyncio.Redis.from_url(own_redis.url)
        connection = RedisConnection(client, 10.0, 0.5)
        await connection.exchange([("PING",)])
        waiting = asyncio.create_task(connection.exchange([("BLPOP", "nothing", 0)]))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(own_redis.stop)
        with pytest.raises(redis.ConnectionError):  # no timeout
            await waiting
        await connection.close()
        await client.aclose()

    run(work())
