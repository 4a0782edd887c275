"""The cache that replicas share. Losing it costs one adaptation for each newcomer and nothing else.

`RedisCache` serves an event loop, `SyncRedisCache` the command line; both speak to the same keys. An owner's keys
are kept in a sorted set by the time they end, which an erasure reads and every write prunes.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsys_meta.errors import StoreError
from recsys_meta.store.breaker import Breaker
from recsys_meta.store.cache import frame, unframe
from recsys_meta.store.engine import Unavailable

LONGEST_TTL = 30 * 24 * 3600.0  # seconds; an owner's set of keys must outlive every one of them
MOST_KEYS = 256  # keys in one MGET

# One round trip that no other client can come between: a key added meanwhile would be forgotten by its owner.
_DELETE_OWNED = """
local n = 0
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do n = n + redis.call('DEL', key) end
redis.call('DEL', KEYS[1])
return n
"""
_FAILURES = (redis.RedisError, OSError, TimeoutError)

log = logging.getLogger(__name__)


class RedisCache:
    """An `AsyncCache` on Redis; one for each event loop. ``timeout`` is in seconds, for each exchange.

    Concurrent GETs travel together: while one MGET is under way, the keys asked for meanwhile gather for the next.
    Raises StoreError for a url that cannot be read.
    """

    def __init__(
        self, url: str, *, prefix: str = "recsys-meta:", timeout: float = 0.2, breaker: Breaker | None = None
    ) -> None:
        retry = AsyncRetry(NoBackoff(), 0)
        self._client: Any = _open(redis.asyncio.Redis, url, timeout, retry)
        self._prefix, self._breaker = prefix, breaker or Breaker()
        self._waiting: list[tuple[str, asyncio.Future[bytes | None]]] = []
        self._reader: asyncio.Task[None] | None = None

    @property
    def degraded(self) -> bool:
        """Whether Redis could not be reached when last asked."""
        return self._breaker.degraded

    async def get(self, key: str, owner: str | None = None) -> bytes | None:
        """The value, None for a miss, an outage or damage. Never raises."""
        if not self._breaker.allows():
            return None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes | None] = loop.create_future()
        self._waiting.append((key, answer))
        if self._reader is None:
            # The task starts after the callbacks that are ready now, so their GETs are in its first batch.
            self._reader = loop.create_task(self._read())
        return await answer

    async def set(self, key: str, value: bytes, ttl: float, owner: str | None = None) -> None:
        """Keep a value for ``ttl`` seconds, at most 30 days. Never raises."""
        if ttl <= 0 or not self._breaker.allows():
            return
        try:
            await _fill(self._client.pipeline(), self._prefix, key, value, ttl, owner).execute()
            self._breaker.succeeded()
        except _FAILURES as error:
            _note(self._breaker, error)

    async def delete(self, keys: Iterable[str]) -> int:
        """Forget keys; answers how many there were. Raises Unavailable."""
        names = [self._prefix + key for key in keys]
        try:
            return int(await self._client.delete(*names)) if names else 0
        except _FAILURES as error:
            raise _unavailable(self._breaker, error) from None

    async def delete_owned(self, owner: str) -> int:
        """Forget all that was set for an owner; answers how many keys. Raises Unavailable."""
        try:
            return int(await self._client.eval(_DELETE_OWNED, 1, self._prefix + owner))
        except _FAILURES as error:
            raise _unavailable(self._breaker, error) from None

    async def ping(self) -> None:
        """Ask Redis for an answer. Raises Unavailable where there is none."""
        try:
            await self._client.ping()
            self._breaker.succeeded()
        except _FAILURES as error:
            raise _unavailable(self._breaker, error) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _read(self) -> None:
        """Answer those who wait, one MGET after another, until nobody does."""
        batch: list[tuple[str, asyncio.Future[bytes | None]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MOST_KEYS], self._waiting[MOST_KEYS:]
                values = await self._client.mget([self._prefix + key for key, _ in batch])
                self._breaker.succeeded()
                for (_, answer), raw in zip(batch, values, strict=True):
                    _answer(answer, None if raw is None else unframe(raw))
        except _FAILURES as error:
            _note(self._breaker, error)
        finally:
            # After a failure nobody may be left waiting, nor wait for a time-out of their own.
            for _, answer in [*batch, *self._waiting]:
                _answer(answer, None)
            self._waiting, self._reader = [], None


class SyncRedisCache:
    """A `Cache` on the same keys for callers without an event loop; safe for threads."""

    def __init__(
        self, url: str, *, prefix: str = "recsys-meta:", timeout: float = 0.5, breaker: Breaker | None = None
    ) -> None:
        self._client: Any = _open(redis.Redis, url, timeout, Retry(NoBackoff(), 0))
        self._prefix, self._breaker = prefix, breaker or Breaker()

    @property
    def degraded(self) -> bool:
        """Whether Redis could not be reached when last asked."""
        return self._breaker.degraded

    def get(self, key: str) -> bytes | None:
        """The value, None for a miss, an outage or damage. Never raises."""
        if not self._breaker.allows():
            return None
        try:
            raw = self._client.mget([self._prefix + key])[0]
        except _FAILURES as error:
            _note(self._breaker, error)
            return None
        self._breaker.succeeded()
        return None if raw is None else unframe(raw)

    def set(self, key: str, value: bytes, ttl: float, owner: str | None = None) -> None:
        """Keep a value for ``ttl`` seconds, at most 30 days. Never raises."""
        if ttl <= 0 or not self._breaker.allows():
            return
        try:
            _fill(self._client.pipeline(), self._prefix, key, value, ttl, owner).execute()
            self._breaker.succeeded()
        except _FAILURES as error:
            _note(self._breaker, error)

    def delete(self, keys: Iterable[str]) -> int:
        """Forget keys; answers how many there were. Raises Unavailable."""
        names = [self._prefix + key for key in keys]
        try:
            return int(self._client.delete(*names)) if names else 0
        except _FAILURES as error:
            raise _unavailable(self._breaker, error) from None

    def delete_owned(self, owner: str) -> int:
        """Forget all that was set for an owner; answers how many keys. Raises Unavailable."""
        try:
            return int(self._client.eval(_DELETE_OWNED, 1, self._prefix + owner))
        except _FAILURES as error:
            raise _unavailable(self._breaker, error) from None

    def ping(self) -> None:
        """Ask Redis for an answer. Raises Unavailable where there is none."""
        try:
            self._client.ping()
            self._breaker.succeeded()
        except _FAILURES as error:
            raise _unavailable(self._breaker, error) from None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _open(client: Any, url: str, timeout: float, retry: Any) -> Any:
    """A client that fails fast instead of trying again behind our back."""
    try:
        return client.from_url(url, socket_timeout=timeout, socket_connect_timeout=max(timeout, 0.25), retry=retry)
    except ValueError:
        raise StoreError("the Redis url cannot be read; expected redis://HOST:PORT/NUMBER") from None


def _fill(pipeline: Any, prefix: str, key: str, value: bytes, ttl: float, owner: str | None) -> Any:
    """The commands of one `set`, in one transaction."""
    ttl = min(ttl, LONGEST_TTL)
    pipeline.set(prefix + key, frame(value), px=max(1, round(ttl * 1000)))
    if owner is not None:
        now = time.time()
        # A minute of grace: the clocks of replicas differ.
        pipeline.zremrangebyscore(prefix + owner, "-inf", now - 60)
        pipeline.zadd(prefix + owner, {prefix + key: now + ttl})
        pipeline.expire(prefix + owner, round(LONGEST_TTL) + 60)
    return pipeline


def _answer(waiting: "asyncio.Future[bytes | None]", value: bytes | None) -> None:
    if not waiting.done():  # its caller may have gone away
        waiting.set_result(value)


def _note(breaker: Breaker, error: BaseException) -> None:
    if not breaker.degraded:
        log.warning("Redis is away, going on without it: %s", type(error).__name__)
    breaker.failed()


def _unavailable(breaker: Breaker, error: BaseException) -> Unavailable:
    _note(breaker, error)
    return Unavailable(f"Redis cannot be reached: {type(error).__name__}")
