"""The cache that replicas share. Losing it costs one adaptation for each newcomer and nothing else.

`RedisCache` serves an event loop, `SyncRedisCache` the command line; both speak to the same keys. One command keeps a
value and one command erases an owner, whose names `cache` knows; neither needs a script or an index.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from recsys_meta.core.errors import StoreError
from recsys_meta.store.cache.circuit_breaker import CircuitBreaker
from recsys_meta.store.cache.keys import owned_names, redis_name, seal_value, unseal_value
from recsys_meta.store.cache.redis_cluster import ClusterClient
from recsys_meta.store.cache.redis_node import FAILURES, RedisNode, log_outage
from recsys_meta.store.database.engine import StoreUnavailable

MAX_TTL_S = 30 * 24 * 3600.0  # seconds
PREFIX = "rm"
CLUSTER_SUFFIX = "+cluster"  # what a scheme ends with where the server is a node of a Redis Cluster: redis+cluster://
_PROBE_NAMES = [str(n) for n in range(256)]  # names that lie on all nodes of a cluster that is not large

Item = TypeVar("Item")


class RedisCache:
    """An `AsyncCache` on Redis; one for each event loop. ``timeout`` is in seconds, for each exchange.

    Raises StoreError for a url that cannot be read.
    """

    def __init__(
        self, url: str, *, prefix: str = PREFIX, timeout: float = 0.2, breaker: CircuitBreaker | None = None
    ) -> None:
        retry = AsyncRetry(NoBackoff(), 0)
        self._client: Any = _open_client(redis.asyncio.Redis, ClusterClient, url, timeout, retry)
        self._clustered = isinstance(self._client, ClusterClient)
        self._prefix, self._breaker = prefix, breaker or CircuitBreaker()
        self._nodes: dict[str, RedisNode] = {}

    @property
    def degraded(self) -> bool:
        """Whether Redis, or a node of the cluster, could not be read or written when last asked."""
        return any(node.degraded for node in self._nodes.values())

    def is_unavailable(self, key: str) -> bool:
        """The same of the one node on which a key lies."""
        return self._node(key).degraded

    async def get(self, key: str, owner: str | None = None) -> bytes | None:
        """The value, None for a miss, an outage or damage. Never raises."""
        return await self._node(key).get(key)

    async def set(self, key: str, value: bytes, ttl: float, owner: str | None = None) -> None:
        """Keep a value for ``ttl`` seconds, at most 30 days. Never raises."""
        writing = self._node(key).writing
        if ttl <= 0 or not writing.allow_request():
            return
        try:
            await self._client.set(self._prefix + redis_name(key), seal_value(key, value), px=_ttl_milliseconds(ttl))
            writing.record_success()
        except FAILURES as error:
            log_outage(writing, error)

    async def claim(self, key: str, value: bytes, ttl: float) -> bytes | None:
        """Keep a value unless there is one; answers the one that is there then, None in an outage. Never raises."""
        writing = self._node(key).writing
        if ttl <= 0 or not writing.allow_request():
            return None
        try:
            is_set = await self._client.set(
                self._prefix + redis_name(key), seal_value(key, value), px=_ttl_milliseconds(ttl), nx=True
            )
            writing.record_success()
        except FAILURES as error:
            log_outage(writing, error)
            return None
        if is_set:
            return value
        present = await self.get(key)
        if present is None:  # gone again, or nothing that was ever ours
            await self.set(key, value, ttl)
            return None if self.is_unavailable(key) else value
        return present

    async def set_all(self, values: Sequence[tuple[str, bytes, float]]) -> None:
        """Keep (key, value, ttl)s, in one exchange with each node. Never raises."""
        parts = self._group_by_node(values, lambda value: value[0])
        await asyncio.gather(*(self._set_part(node, part) for node, part in parts.items()))

    async def delete(self, keys: Iterable[str]) -> int:
        """Forget keys; answers how many there were. Raises Unavailable, once all nodes were asked."""
        return await self._delete([redis_name(key) for key in keys])

    async def delete_owned(self, owner: str) -> int:
        """Forget all that was set for an owner; answers how many keys. Raises Unavailable."""
        return await self._delete(owned_names(owner))

    async def ping(self) -> None:
        """Ask each node for an answer, and to be written where it last refused. Raises Unavailable where one does not.

        From here on a node that left the cluster is none of ours.
        """
        probes = {self._node_name(name): name for name in _PROBE_NAMES}
        self._nodes = {node_name: node for node_name, node in self._nodes.items() if node_name in probes}
        await _gather_all(self._ping(name) for name in probes.values())

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _fetch(self, names: list[str]) -> list[bytes | None]:
        if not self._clustered:
            return list(await self._client.mget([self._prefix + name for name in names]))
        return await self._execute_each("GET", names)

    async def _execute_each(self, command: str, names: list[str]) -> list[Any]:
        """A command for each name, in one exchange. No command of a cluster may cross slots, and one of several names
        is refused while their slot is on its way to another node."""
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.execute_command(command, self._prefix + name)
        return list(await pipe.execute())

    async def _set_part(self, node: RedisNode, values: Sequence[tuple[str, bytes, float]]) -> None:
        if not node.writing.allow_request():
            return
        pipe = self._client.pipeline(transaction=False)
        for key, value, ttl in values:
            # Not `pipe.set`: what it makes of its options takes as long as all the rest.
            pipe.execute_command(
                "SET", self._prefix + redis_name(key), seal_value(key, value), "PX", _ttl_milliseconds(ttl)
            )
        try:
            await pipe.execute()
            node.writing.record_success()
        except FAILURES as error:
            log_outage(node.writing, error)

    async def _delete(self, names: list[str]) -> int:
        parts = self._group_by_node(names, str)
        return sum(await _gather_all(self._delete_part(node, part) for node, part in parts.items()))

    async def _delete_part(self, node: RedisNode, names: list[str]) -> int:
        try:
            if self._clustered:
                return sum(await self._execute_each("DEL", names))
            return int(await self._client.delete(*(self._prefix + name for name in names)))
        except FAILURES as error:
            raise _unavailable(node.writing, error) from None

    async def _ping(self, name: str) -> None:
        # A name is read: of a cluster that is down each node still answers a PING.
        node = self._node(name)
        breaker = node.reading
        try:
            await self._client.get(self._prefix + name)
            node.reading.record_success()
            if node.writing.degraded:
                breaker = node.writing
                await self._client.set(self._prefix + name, b"", px=1)
                node.writing.record_success()
        except FAILURES as error:
            raise _unavailable(breaker, error) from None

    def _group_by_node(self, items: Iterable[Item], key: Callable[[Item], str]) -> dict[RedisNode, list[Item]]:
        """Items by the nodes that they lie on."""
        parts: dict[RedisNode, list[Item]] = {}
        for item in items:
            parts.setdefault(self._node(key(item)), []).append(item)
        return parts

    def _node(self, key: str) -> RedisNode:
        node_name = self._node_name(redis_name(key))
        if node_name not in self._nodes:
            self._nodes[node_name] = RedisNode(self._breaker, self._fetch)
        return self._nodes[node_name]

    def _node_name(self, name: str) -> str:
        """Which node a name lies on. Redis by itself is one, and so is a cluster that was never reached."""
        if not self._clustered:
            return ""
        try:
            return str(self._client.get_node_from_key(self._prefix + name).name)
        except RedisClusterException:
            return ""


class SyncRedisCache:
    """A `Cache` on the same keys for callers without an event loop; safe for threads.

    Raises StoreError for a url that cannot be read, Unavailable where it is of a cluster that is away.
    """

    def __init__(
        self, url: str, *, prefix: str = PREFIX, timeout: float = 0.5, breaker: CircuitBreaker | None = None
    ) -> None:
        self._client: Any = _open_client(redis.Redis, redis.RedisCluster, url, timeout, Retry(NoBackoff(), 0))
        self._clustered = isinstance(self._client, redis.RedisCluster)
        self._prefix, self._breaker = prefix, breaker or CircuitBreaker()
        self._writing = self._breaker.fresh_copy()

    @property
    def degraded(self) -> bool:
        """Whether Redis could not be read or written when last asked."""
        return self._breaker.degraded or self._writing.degraded

    def get(self, key: str) -> bytes | None:
        """The value, None for a miss, an outage or damage. Never raises."""
        if not self._breaker.allow_request():
            return None
        try:
            raw = self._client.mget([self._prefix + redis_name(key)])[0]
            value = None if raw is None else unseal_value(key, raw)
        except FAILURES as error:
            log_outage(self._breaker, error)
            return None
        self._breaker.record_success()
        return value

    def set(self, key: str, value: bytes, ttl: float, owner: str | None = None) -> None:
        """Keep a value for ``ttl`` seconds, at most 30 days. Never raises."""
        if ttl <= 0 or not self._writing.allow_request():
            return
        try:
            self._client.set(self._prefix + redis_name(key), seal_value(key, value), px=_ttl_milliseconds(ttl))
            self._writing.record_success()
        except FAILURES as error:
            log_outage(self._writing, error)

    def delete(self, keys: Iterable[str]) -> int:
        """Forget keys; answers how many there were. Raises Unavailable."""
        return self._delete([redis_name(key) for key in keys])

    def delete_owned(self, owner: str) -> int:
        """Forget all that was set for an owner; answers how many keys. Raises Unavailable."""
        return self._delete(owned_names(owner))

    def ping(self) -> None:
        """Ask Redis for an answer, and to be written where it last refused. Raises Unavailable where it does not."""
        try:
            self._client.ping()
            self._breaker.record_success()
        except FAILURES as error:
            raise _unavailable(self._breaker, error) from None
        if self._writing.degraded:
            try:
                self._client.set(self._prefix, b"", px=1)
                self._writing.record_success()
            except FAILURES as error:
                raise _unavailable(self._writing, error) from None

    def version(self) -> str:
        """Which version the server is, of a cluster one of its nodes. Raises Unavailable."""
        target = {"target_nodes": redis.RedisCluster.RANDOM} if self._clustered else {}
        try:
            return str(self._client.info("server", **target)["redis_version"])
        except FAILURES as error:
            raise _unavailable(self._breaker, error) from None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _delete(self, names: list[str]) -> int:
        if not names:
            return 0
        full = [self._prefix + name for name in names]
        try:
            # One after another on a cluster, which refuses several while their slot is on its way.
            if self._clustered:
                return sum(int(self._client.delete(name)) for name in full)
            return int(self._client.delete(*full))
        except FAILURES as error:
            raise _unavailable(self._writing, error) from None


def _open_client(plain: Any, cluster: Any, url: str, timeout: float, retry: Any) -> Any:
    """A client that fails fast instead of trying again behind our back."""
    scheme, _, rest = url.partition("://")
    kind, url = (
        (cluster, f"{scheme.removesuffix(CLUSTER_SUFFIX)}://{rest}")
        if scheme.endswith(CLUSTER_SUFFIX)
        else (plain, url)
    )
    try:
        return kind.from_url(url, socket_timeout=timeout, socket_connect_timeout=max(timeout, 0.25), retry=retry)
    except ValueError:
        raise StoreError("the Redis url cannot be read; expected redis://HOST:PORT/NUMBER") from None
    except (redis.RedisError, RedisClusterException) as error:  # the command line's client of a cluster asks at once
        raise StoreUnavailable(f"Redis cannot be reached: {type(error).__name__}") from None


def _ttl_milliseconds(ttl: float) -> int:
    """A time to live as Redis wants it."""
    return max(1, round(min(ttl, MAX_TTL_S) * 1000))


def _unavailable(breaker: CircuitBreaker, error: BaseException) -> StoreUnavailable:
    log_outage(breaker, error)
    return StoreUnavailable(f"Redis cannot be reached: {type(error).__name__}")


async def _gather_all(work: Iterable[Awaitable[Item]]) -> list[Item]:
    """The results, once everything has ended. Raises the first of the errors."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for one in results:
        if isinstance(one, BaseException):
            raise one
    return cast("list[Item]", results)
