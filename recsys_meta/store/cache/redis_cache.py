"""Redis cache that replicas of the server share. Losing it costs one adaptation for each entity and nothing else.

`RedisCache` is for an event loop, `SyncRedisCache` for the command line; both use the same keys. One command stores a
value and one command erases an owner, whose names `keys.owned_names` lists; neither needs a script or an index.
"""

import asyncio
import re
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
from recsys_meta.store.cache.redis_connection import Command, RedisConnection
from recsys_meta.store.cache.redis_node import FAILURES, RedisNode, log_outage, redis_cause
from recsys_meta.store.database.engine import StoreUnavailable

MAX_TTL_S = 30 * 24 * 3600.0  # seconds
PREFIX = "rm"
CLUSTER_SUFFIX = "+cluster"  # suffix of the scheme for a node of a Redis Cluster: redis+cluster://
_PROBE_NAMES = [str(n) for n in range(256)]  # enough names to reach every node of a small cluster

Item = TypeVar("Item")


class RedisCache:
    """Redis cache for one event loop. ``timeout`` is in seconds, for each exchange.

    Reads and writes never raise: an outage is a miss. Deletions raise StoreUnavailable, as they may not fail silently.
    Raises StoreError for a url that cannot be parsed.
    """

    def __init__(
        self, url: str, *, prefix: str = PREFIX, timeout: float = 0.2, breaker: CircuitBreaker | None = None
    ) -> None:
        retry = AsyncRetry(NoBackoff(), 0)
        self._client: Any = _open_client(redis.asyncio.Redis, ClusterClient, url, timeout, retry)
        self._clustered = isinstance(self._client, ClusterClient)
        self._prefix, self._breaker = prefix, breaker or CircuitBreaker()
        self._nodes: dict[str, RedisNode] = {}
        # For reads and for writes. A cluster's client chooses the connection of each command itself.
        self._kept: list[RedisConnection] = []
        if not self._clustered:
            self._kept = [RedisConnection(self._client, timeout, _connect_timeout(timeout)) for _ in range(2)]

    @property
    def degraded(self) -> bool:
        """True if Redis, or a node of the cluster, could not be read or written at the last attempt."""
        return any(node.degraded for node in self._nodes.values())

    def is_unavailable(self, key: str) -> bool:
        """Return whether the node of a key could not be read or written at the last attempt."""
        return self._node(key).degraded

    async def get(self, key: str, owner: str | None = None) -> bytes | None:
        """Return the value, None for a miss, an outage or a damaged value. Never raises."""
        return await self.request(key)

    def request(self, key: str) -> "asyncio.Future[bytes | None]":
        """Ask for a value; return its future, None as `get`. Requests of one turn of the loop share an exchange."""
        return self._node(key).get(key)

    async def set(self, key: str, value: bytes, ttl: float, owner: str | None = None) -> None:
        """Store a value for ``ttl`` seconds, at most 30 days. Never raises; an outage loses the value."""
        writing = self._node(key).writing
        if ttl <= 0 or not writing.allow_request():
            return
        try:
            await self._client.set(self._prefix + redis_name(key), seal_value(key, value), px=_ttl_milliseconds(ttl))
            writing.record_success()
        except FAILURES as error:
            log_outage(writing, error)

    async def claim(self, key: str, value: bytes, ttl: float) -> bytes | None:
        """Store a value unless one is present; return the one that is then present, None in an outage. Never raises."""
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
        if present is None:  # expired meanwhile, or not a value of this project
            await self.set(key, value, ttl)
            return None if self.is_unavailable(key) else value
        return present

    async def set_all(self, values: Sequence[tuple[str, bytes, float]]) -> None:
        """Store triples (key, value, ttl in seconds), in one exchange with each node. Never raises."""
        if not self._clustered:  # a task for each of one part costs as much as the exchange
            await self._set_part(self._node(""), values)
            return
        parts = self._group_by_node(values, lambda value: value[0])
        await asyncio.gather(*(self._set_part(node, part) for node, part in parts.items()))

    async def delete(self, keys: Iterable[str]) -> int:
        """Delete keys; return how many were present. Raises StoreUnavailable, after all nodes were tried."""
        return await self._delete([redis_name(key) for key in keys])

    async def delete_owned(self, owner: str) -> int:
        """Delete all values of an owner; return how many were present. Raises StoreUnavailable."""
        return await self._delete(owned_names(owner))

    async def ping(self) -> None:
        """Check that each node can be read, and written if it last refused a write. Raises StoreUnavailable.

        Nodes that have left the cluster are dropped from the list of nodes.
        """
        probes = {self._node_name(name): name for name in _PROBE_NAMES}
        self._nodes = {node_name: node for node_name, node in self._nodes.items() if node_name in probes}
        await _gather_all(self._ping(name) for name in probes.values())

    async def close(self) -> None:
        """Close the connections."""
        for connection in self._kept:
            await connection.close()
        await self._client.aclose()

    async def _fetch(self, names: list[str]) -> list[bytes | None]:
        if not self._clustered:
            (values,) = await self._kept[0].exchange([("MGET", *[self._prefix + name for name in names])])
            return list(values)
        return await self._execute_each("GET", names)

    async def _execute_each(self, command: str, names: list[str]) -> list[Any]:
        """Run a command for each name, in one exchange.

        A command of a cluster may not cross slots, and one of several names is refused while their slot migrates.
        """
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.execute_command(command, self._prefix + name)
        return list(await pipe.execute())

    async def _set_part(self, node: RedisNode, values: Sequence[tuple[str, bytes, float]]) -> None:
        if not node.writing.allow_request():
            return
        commands: list[Command] = [
            ("SET", self._prefix + redis_name(key), seal_value(key, value), "PX", _ttl_milliseconds(ttl))
            for key, value, ttl in values
        ]
        try:
            await self._write(commands)
            node.writing.record_success()
        except FAILURES as error:
            log_outage(node.writing, error)

    async def _write(self, commands: Sequence[Command]) -> None:
        """Run commands in one exchange."""
        if not self._clustered:
            await self._kept[1].exchange(commands)
            return
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            # Not `pipe.set`: its handling of options takes as long as everything else together.
            pipe.execute_command(*command)
        await pipe.execute()

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
        # Read a name: the nodes of a cluster that is down still answer a PING.
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
        """Group items by the node of their key."""
        parts: dict[RedisNode, list[Item]] = {}
        for item in items:
            parts.setdefault(self._node(key(item)), []).append(item)
        return parts

    def _node(self, key: str) -> RedisNode:
        node_name = self._node_name(redis_name(key)) if self._clustered else ""
        node = self._nodes.get(node_name)
        if node is None:
            node = self._nodes[node_name] = RedisNode(self._breaker, self._fetch)
        return node

    def _node_name(self, name: str) -> str:
        """Return the name of the node of a key; "" for a single Redis and for a cluster that was never reached."""
        if not self._clustered:
            return ""
        try:
            return str(self._client.get_node_from_key(self._prefix + name).name)
        except RedisClusterException:
            return ""


class SyncRedisCache:
    """Redis cache on the same keys for callers without an event loop; safe for threads.

    Raises StoreError for a url that cannot be parsed, StoreUnavailable for a cluster that cannot be reached.
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
        """True if Redis could not be read or written at the last attempt."""
        return self._breaker.degraded or self._writing.degraded

    def get(self, key: str) -> bytes | None:
        """Return the value, None for a miss, an outage or a damaged value. Never raises."""
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
        """Store a value for ``ttl`` seconds, at most 30 days. Never raises; an outage loses the value."""
        if ttl <= 0 or not self._writing.allow_request():
            return
        try:
            self._client.set(self._prefix + redis_name(key), seal_value(key, value), px=_ttl_milliseconds(ttl))
            self._writing.record_success()
        except FAILURES as error:
            log_outage(self._writing, error)

    def delete(self, keys: Iterable[str]) -> int:
        """Delete keys; return how many were present. Raises StoreUnavailable."""
        return self._delete([redis_name(key) for key in keys])

    def delete_owned(self, owner: str) -> int:
        """Delete all values of an owner; return how many were present. Raises StoreUnavailable."""
        return self._delete(owned_names(owner))

    def ping(self) -> None:
        """Check that Redis answers, and can be written if it last refused a write. Raises StoreUnavailable."""
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

    def check(self) -> None:
        """Read and write, as the server does. Raises StoreUnavailable with Redis's own words."""
        try:
            self._client.get(self._prefix)
            self._client.set(self._prefix, b"", px=1)
        except FAILURES as error:
            raise _unavailable(self._writing, error) from None

    def version(self) -> str:
        """Return the version of the server, of a cluster that of a random node. Raises StoreUnavailable."""
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
            # One by one on a cluster, which refuses several names while their slot migrates.
            if self._clustered:
                return sum(int(self._client.delete(name)) for name in full)
            return int(self._client.delete(*full))
        except FAILURES as error:
            raise _unavailable(self._writing, error) from None


def _open_client(plain: Any, cluster: Any, url: str, timeout: float, retry: Any) -> Any:
    """Return a client that fails fast instead of retrying by itself."""
    scheme, _, rest = url.partition("://")
    if "@" in rest and "@" not in re.split("[/?#]", rest)[0]:  # what stands before would be taken for the host
        raise StoreError("the Redis url has a password that is not escaped: write / as %2F, ? as %3F and # as %23")
    kind, url = (
        (cluster, f"{scheme.removesuffix(CLUSTER_SUFFIX)}://{rest}")
        if scheme.endswith(CLUSTER_SUFFIX)
        else (plain, url)
    )
    try:
        return kind.from_url(url, socket_timeout=timeout, socket_connect_timeout=_connect_timeout(timeout), retry=retry)
    except ValueError:
        raise StoreError("the Redis url cannot be read; expected redis://HOST:PORT/NUMBER") from None
    except (redis.RedisError, RedisClusterException) as error:  # the synchronous client of a cluster connects at once
        raise StoreUnavailable(redis_cause(error), redis_cause(error)) from None


def _connect_timeout(timeout: float) -> float:
    """Return the time that opening a connection may take, seconds."""
    return max(timeout, 0.25)


def _ttl_milliseconds(ttl: float) -> int:
    """Return a time to live in whole milliseconds, from 1 to 30 days."""
    return max(1, round(min(ttl, MAX_TTL_S) * 1000))


def _unavailable(breaker: CircuitBreaker, error: BaseException) -> StoreUnavailable:
    log_outage(breaker, error)
    return StoreUnavailable(redis_cause(error), redis_cause(error))


async def _gather_all(work: Iterable[Awaitable[Item]]) -> list[Item]:
    """Return the results after every awaitable has ended. Raises the first error."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for one in results:
        if isinstance(one, BaseException):
            raise one
    return cast("list[Item]", results)
