"""The cache that replicas share. Losing it costs one adaptation for each newcomer and nothing else.

`RedisCache` serves an event loop, `SyncRedisCache` the command line; both speak to the same keys. One command keeps a
value and one command erases an owner, whose names `cache` knows; neither needs a script or an index.

Reading and writing have a breaker each: a replica that refuses to be written, or a server that is full, still answers.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.cluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from recsys_meta.errors import StoreError
from recsys_meta.store.breaker import Breaker
from recsys_meta.store.cache import name_of, owned_names, seal, unseal
from recsys_meta.store.engine import Unavailable

LONGEST_TTL = 30 * 24 * 3600.0  # seconds
MOST_KEYS = 256  # keys in one MGET
PREFIX = "rm"
CLUSTER = "+cluster"  # what a scheme ends with where the server is a node of a Redis Cluster: redis+cluster://
# The last three: an answer of another form than was asked for, by who is no Redis.
_FAILURES = (redis.RedisError, RedisClusterException, OSError, TimeoutError, ValueError, TypeError, AttributeError)

log = logging.getLogger(__name__)


class RedisCache:
    """An `AsyncCache` on Redis; one for each event loop. ``timeout`` is in seconds, for each exchange.

    Concurrent GETs travel together: while one MGET is under way, the keys asked for meanwhile gather for the next.
    Raises StoreError for a url that cannot be read.
    """

    def __init__(self, url: str, *, prefix: str = PREFIX, timeout: float = 0.2, breaker: Breaker | None = None) -> None:
        retry = AsyncRetry(NoBackoff(), 0)
        self._client: Any = _open(redis.asyncio.Redis, redis.asyncio.cluster.RedisCluster, url, timeout, retry)
        # Of a cluster each node is asked for its own: keys of several entities lie on several.
        self._mget = "mget_nonatomic" if hasattr(self._client, "mget_nonatomic") else "mget"
        self._prefix, self._breaker = prefix, breaker or Breaker()
        self._writing = self._breaker.twin()
        self._waiting: list[tuple[str, asyncio.Future[bytes | None]]] = []
        self._reader: asyncio.Task[None] | None = None

    @property
    def degraded(self) -> bool:
        """Whether Redis could not be read or written when last asked."""
        return self._breaker.degraded or self._writing.degraded

    async def get(self, key: str, owner: str | None = None) -> bytes | None:
        """The value, None for a miss, an outage or damage. Never raises."""
        return await self._ask(key) if self._breaker.allows() else None

    async def get_both(self, key: str, other: str | None) -> tuple[bytes | None, bytes | None]:
        """The same for two keys in one exchange; the other may be none."""
        if not self._breaker.allows():
            return None, None
        first, second = self._ask(key), None if other is None else self._ask(other)
        return await first, None if second is None else await second

    async def set(self, key: str, value: bytes, ttl: float, owner: str | None = None) -> None:
        """Keep a value for ``ttl`` seconds, at most 30 days. Never raises."""
        if ttl <= 0 or not self._writing.allows():
            return
        try:
            await self._client.set(self._prefix + name_of(key), seal(key, value), px=_ms(ttl))
            self._writing.succeeded()
        except _FAILURES as error:
            _note(self._writing, error)

    async def claim(self, key: str, value: bytes, ttl: float) -> bytes | None:
        """Keep a value unless there is one; answers the one that is there then, None in an outage. Never raises."""
        if ttl <= 0 or not self._writing.allows():
            return None
        try:
            made = await self._client.set(self._prefix + name_of(key), seal(key, value), px=_ms(ttl), nx=True)
            self._writing.succeeded()
        except _FAILURES as error:
            _note(self._writing, error)
            return None
        if made:
            return value
        there = await self.get(key)
        if there is None:  # gone again, or nothing that was ever ours
            await self.set(key, value, ttl)
            return None if self.degraded else value
        return there

    async def set_all(self, values: Sequence[tuple[str, bytes, float]]) -> None:
        """Keep (key, value, ttl)s, in one exchange. Never raises."""
        if not values or not self._writing.allows():
            return
        pipe = self._client.pipeline(transaction=False)
        for key, value, ttl in values:
            pipe.set(self._prefix + name_of(key), seal(key, value), px=_ms(ttl))
        try:
            await pipe.execute()
            self._writing.succeeded()
        except _FAILURES as error:
            _note(self._writing, error)

    async def delete(self, keys: Iterable[str]) -> int:
        """Forget keys; answers how many there were. Raises Unavailable."""
        return await self._delete([name_of(key) for key in keys])

    async def delete_owned(self, owner: str) -> int:
        """Forget all that was set for an owner; answers how many keys. Raises Unavailable."""
        return await self._delete(owned_names(owner))

    async def ping(self) -> None:
        """Ask Redis for an answer, and to be written where it last refused. Raises Unavailable where it does not."""
        try:
            await self._client.ping()
            self._breaker.succeeded()
        except _FAILURES as error:
            raise _unavailable(self._breaker, error) from None
        if self._writing.degraded:
            try:
                await self._client.set(self._prefix, b"", px=1)
                self._writing.succeeded()
            except _FAILURES as error:
                raise _unavailable(self._writing, error) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _delete(self, names: list[str]) -> int:
        try:
            return int(await self._client.delete(*(self._prefix + name for name in names))) if names else 0
        except _FAILURES as error:
            raise _unavailable(self._writing, error) from None

    def _ask(self, key: str) -> "asyncio.Future[bytes | None]":
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes | None] = loop.create_future()
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
                batch, self._waiting = self._waiting[:MOST_KEYS], self._waiting[MOST_KEYS:]
                values = await getattr(self._client, self._mget)([self._prefix + name_of(key) for key, _ in batch])
                for (key, answer), raw in zip(batch, values, strict=True):
                    _answer(answer, None if raw is None else unseal(key, raw))
                self._breaker.succeeded()
        except _FAILURES as error:
            _note(self._breaker, error)
        finally:
            # After a failure nobody may be left waiting, nor wait for a time-out of their own.
            for _, answer in [*batch, *self._waiting]:
                _answer(answer, None)
            self._waiting, self._reader = [], None


class SyncRedisCache:
    """A `Cache` on the same keys for callers without an event loop; safe for threads."""

    def __init__(self, url: str, *, prefix: str = PREFIX, timeout: float = 0.5, breaker: Breaker | None = None) -> None:
        self._client: Any = _open(redis.Redis, redis.RedisCluster, url, timeout, Retry(NoBackoff(), 0))
        self._prefix, self._breaker = prefix, breaker or Breaker()
        self._writing = self._breaker.twin()

    @property
    def degraded(self) -> bool:
        """Whether Redis could not be read or written when last asked."""
        return self._breaker.degraded or self._writing.degraded

    def get(self, key: str) -> bytes | None:
        """The value, None for a miss, an outage or damage. Never raises."""
        if not self._breaker.allows():
            return None
        try:
            raw = self._client.mget([self._prefix + name_of(key)])[0]
            value = None if raw is None else unseal(key, raw)
        except _FAILURES as error:
            _note(self._breaker, error)
            return None
        self._breaker.succeeded()
        return value

    def set(self, key: str, value: bytes, ttl: float, owner: str | None = None) -> None:
        """Keep a value for ``ttl`` seconds, at most 30 days. Never raises."""
        if ttl <= 0 or not self._writing.allows():
            return
        try:
            self._client.set(self._prefix + name_of(key), seal(key, value), px=_ms(ttl))
            self._writing.succeeded()
        except _FAILURES as error:
            _note(self._writing, error)

    def delete(self, keys: Iterable[str]) -> int:
        """Forget keys; answers how many there were. Raises Unavailable."""
        return self._delete([name_of(key) for key in keys])

    def delete_owned(self, owner: str) -> int:
        """Forget all that was set for an owner; answers how many keys. Raises Unavailable."""
        return self._delete(owned_names(owner))

    def ping(self) -> None:
        """Ask Redis for an answer, and to be written where it last refused. Raises Unavailable where it does not."""
        try:
            self._client.ping()
            self._breaker.succeeded()
        except _FAILURES as error:
            raise _unavailable(self._breaker, error) from None
        if self._writing.degraded:
            try:
                self._client.set(self._prefix, b"", px=1)
                self._writing.succeeded()
            except _FAILURES as error:
                raise _unavailable(self._writing, error) from None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _delete(self, names: list[str]) -> int:
        try:
            return int(self._client.delete(*(self._prefix + name for name in names))) if names else 0
        except _FAILURES as error:
            raise _unavailable(self._writing, error) from None


def _open(plain: Any, cluster: Any, url: str, timeout: float, retry: Any) -> Any:
    """A client that fails fast instead of trying again behind our back."""
    scheme, _, rest = url.partition("://")
    kind, url = (cluster, f"{scheme.removesuffix(CLUSTER)}://{rest}") if scheme.endswith(CLUSTER) else (plain, url)
    try:
        return kind.from_url(url, socket_timeout=timeout, socket_connect_timeout=max(timeout, 0.25), retry=retry)
    except ValueError:
        raise StoreError("the Redis url cannot be read; expected redis://HOST:PORT/NUMBER") from None


def _ms(ttl: float) -> int:
    """A time to live as Redis wants it."""
    return max(1, round(min(ttl, LONGEST_TTL) * 1000))


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
