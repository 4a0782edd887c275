"""Rate limit of each API key, and of each address without one: counted in Redis, or in the process without it.

Asking Redis for every request would cost more than a response from the cache. So a process draws requests from the
common sliding window in portions and spends a portion without asking; a caller that was refused is refused in the
process until its time has come. The unspent rest of the portions of all processes, at most 2% of the limit each, is
how far the count may be off.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from cachetools import LRUCache
from limits.aio.storage import MemoryStorage, RedisClusterStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.api_keys import ApiKeyStore
from api.http.authorization import KEY_HEADER
from api.http.problem_details import ProblemError, problem_response
from recsys_meta.core.errors import ConfigError
from recsys_meta.store.cache.circuit_breaker import CircuitBreaker
from recsys_meta.store.cache.redis_cache import CLUSTER_SUFFIX
from recsys_meta.store.cache.redis_node import FAILURES
from recsys_meta.store.config_entries import parse_rate_limit

PORTIONS = 50
"""Portions of a limit; a portion is at least one request."""

_MAX_CALLERS = 10_000
_MAX_REFUSAL_S = 1.0  # how long a refusal stands without asking the window again, seconds
_REDIS_S = 0.25  # how long Redis may take, seconds
_EXEMPT_PATHS = frozenset(("/livez", "/readyz", "/metrics"))


@dataclass
class _CallerPortion:
    """Portion of one caller. Times are those of the limiter's clock, seconds.

    `remaining` requests may be made without asking until `expires`; all are refused without asking until
    `refused_until`, and told to come back at `free_at`.
    """

    remaining: int = 0
    expires: float = 0.0
    refused_until: float = 0.0
    free_at: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RateLimiter:
    """Sliding-window rate limiter. Raises ConfigError for a limit that cannot be read."""

    def __init__(self, limit: str, redis_url: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._item = parse_rate_limit(limit)
        self._portion = max(1, self._item.amount // PORTIONS)
        self._seconds = float(self._item.get_expiry())
        self._clock = clock
        # To evict a caller is to lose the rest of its portion: it would be refused before its limit is reached.
        self._callers: LRUCache[str, _CallerPortion] = LRUCache(_MAX_CALLERS)
        self._breaker = CircuitBreaker(failures=2, pause=0.5, max_pause=2.0)
        self._local = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._storage = None if redis_url is None else _storage(redis_url)
        self._shared = None if self._storage is None else SlidingWindowCounterRateLimiter(self._storage)

    async def hit(self, identity: str) -> float | None:
        """Count a request of a caller; return None where it is admitted, else the seconds to wait. Never raises."""
        portion = self._callers.get(identity)
        if portion is None:
            portion = self._callers[identity] = _CallerPortion()
        while True:
            now = self._clock()
            if portion.remaining and now < portion.expires:
                portion.remaining -= 1
                return None
            if now < portion.refused_until:
                return portion.free_at - now
            if not portion.lock.locked():
                async with portion.lock:
                    await self._refill(identity, portion)
            else:  # another request of this caller draws the portion that this one then spends from
                async with portion.lock:
                    pass

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._storage is not None:
            await self._storage.bridge.get_connection().aclose()  # type: ignore[attr-defined]

    async def _refill(self, identity: str, portion: _CallerPortion) -> None:
        portion.remaining, wait = await self._draw(identity)
        now = self._clock()
        portion.expires, portion.free_at = now + self._seconds, now + wait
        portion.refused_until = 0.0 if portion.remaining else now + min(wait, _MAX_REFUSAL_S)

    async def _draw(self, identity: str) -> tuple[int, float]:
        """Draw requests from the window of all processes, or from that of this one while Redis is unavailable."""
        if self._shared is not None and self._breaker.allow_request():
            try:
                portion = await self._draw_from(self._shared, identity)
                self._breaker.record_success()
                return portion
            except FAILURES:
                self._breaker.record_failure()
        return await self._draw_from(self._local, identity)

    async def _draw_from(self, window: SlidingWindowCounterRateLimiter, identity: str) -> tuple[int, float]:
        """Return the size of a portion, or 1 near the end of the limit, or 0 and the seconds to wait."""
        for cost in dict.fromkeys((self._portion, 1)):
            if await window.hit(self._item, identity, cost=cost):
                return cost, 0.0
        stats = await window.get_window_stats(self._item, identity)
        return 0, max(0.001, stats.reset_time - time.time())


class RateLimitMiddleware:
    """ASGI middleware that answers 429 with `Retry-After` beyond the limit. Probes are never refused."""

    def __init__(self, app: ASGIApp, keys: ApiKeyStore, limiter: RateLimiter) -> None:
        self.app, self.keys, self.limiter = app, keys, limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _EXEMPT_PATHS:
            wait = await self.limiter.hit(caller_identity(self.keys, scope))
            if wait is not None:
                headers = {"retry-after": str(max(1, math.ceil(wait)))}
                problem = ProblemError(429, "Too many requests; Retry-After says when to come back", headers=headers)
                await problem_response(problem, scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def caller_identity(keys: ApiKeyStore, scope: Scope) -> str:
    """Return the name under which a caller is counted: its key's public id, else its address.

    An unknown key is counted by address, or guessing keys would be free. Of an IPv6 address the /64 network counts,
    the smallest that one customer gets. No text that a caller sends becomes part of a name in Redis.
    """
    for name, value in scope["headers"]:
        if name == KEY_HEADER:
            key = keys.find(value.decode("latin-1"))
            if key is not None:
                return f"key-{key.id}"
    client = scope.get("client")
    return f"address-{_network(str(client[0]))}" if client else "address-unknown"


def _network(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "unknown"
    if address.version == 4:
        return str(address)
    ipv4 = address.ipv4_mapped
    return str(ipv4) if ipv4 else str(ipaddress.ip_network((address.packed[:8] + bytes(8), 64)).network_address)


def _storage(url: str) -> RedisStorage:
    """Open the storage that all processes count in; on a cluster `limits` keeps one caller's names on one node."""
    retry = Retry(NoBackoff(), 0)
    common: Any = {"implementation": "redispy", "key_prefix": "recsys-meta:rate"}
    timeouts: Any = {"socket_timeout": _REDIS_S, "socket_connect_timeout": _REDIS_S, "retry": retry}
    scheme, _, rest = url.partition("://")
    try:
        if not scheme.endswith(CLUSTER_SUFFIX):
            pool: Any = redis.asyncio.ConnectionPool.from_url(url, **timeouts)
            return RedisStorage("async+redis://", connection_pool=pool, **common)
        tls: Any = {"ssl": True} if scheme.startswith("rediss") else {}
        return RedisClusterStorage(f"async+redis{CLUSTER_SUFFIX}://{rest}", **common, **timeouts, **tls)
    except ValueError:
        raise ConfigError("the Redis url cannot be read; expected redis://HOST:PORT/NUMBER") from None
