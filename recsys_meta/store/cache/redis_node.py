"""One server of the shared cache, as this process sees it: Redis, or a node of a Redis Cluster.

Of several nodes each has breakers and waiting GETs of its own: one that is away costs nobody the others.
Reading and writing have a breaker each: a replica that refuses to be written, or a server that is full, still answers.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import redis
from redis.exceptions import RedisClusterException

from recsys_meta.store.cache.circuit_breaker import CircuitBreaker
from recsys_meta.store.cache.keys import redis_name, unseal_value

MAX_KEYS = 256  # keys in one MGET
# The last three: an answer of another form than was asked for, by who is no Redis.
FAILURES = (redis.RedisError, RedisClusterException, OSError, TimeoutError, ValueError, TypeError, AttributeError)

log = logging.getLogger(__name__)


class RedisNode:
    """A server for one event loop. ``fetch`` gets the values of so many names, None where there is none.

    Concurrent GETs travel together: while one MGET is under way, the keys asked for meanwhile gather for the next.
    """

    def __init__(self, breaker: CircuitBreaker, fetch: Callable[[list[str]], Awaitable[list[bytes | None]]]) -> None:
        self.reading, self.writing = breaker.fresh_copy(), breaker.fresh_copy()
        self._fetch = fetch
        self._waiting: list[tuple[str, asyncio.Future[bytes | None]]] = []
        self._reader: asyncio.Task[None] | None = None

    @property
    def degraded(self) -> bool:
        """Whether it could not be read or written when last asked."""
        return self.reading.degraded or self.writing.degraded

    def get(self, key: str) -> "asyncio.Future[bytes | None]":
        """The value, None for a miss, an outage or damage. Asked for now, whenever it is awaited; never raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes | None] = loop.create_future()
        if not self.reading.allow_request():
            answer.set_result(None)
            return answer
        self._waiting.append((key, answer))
        if self._reader is None:
            # The task starts after the callbacks that are ready now, so their GETs are in its first batch.
            self._reader = loop.create_task(self._read())
        return answer

    async def _read(self) -> None:
        """Answer those who wait, one MGET after another, until nobody does."""
        batch: list[tuple[str, asyncio.Future[bytes | None]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_KEYS], self._waiting[MAX_KEYS:]
                values = await self._fetch([redis_name(key) for key, _ in batch])
                for (key, answer), raw in zip(batch, values, strict=True):
                    _set_result(answer, None if raw is None else unseal_value(key, raw))
                self.reading.record_success()
        except FAILURES as error:
            log_outage(self.reading, error)
        finally:
            # After a failure nobody may be left waiting, nor wait for a time-out of their own.
            for _, answer in [*batch, *self._waiting]:
                _set_result(answer, None)
            self._waiting, self._reader = [], None


def log_outage(breaker: CircuitBreaker, error: BaseException) -> None:
    """Count a failure; the first one in a row is logged."""
    if not breaker.degraded:
        log.warning("Redis is away, going on without it: %s", type(error).__name__)
    breaker.record_failure()


def _set_result(waiting: "asyncio.Future[bytes | None]", value: bytes | None) -> None:
    if not waiting.done():  # its caller may have gone away
        waiting.set_result(value)
