"""How many requests a key, or an address without one, may make: counted in Redis, or in the process without it.

Asking Redis at every request would cost more than an answer from the cache. So a process takes requests from the
common window in portions and spends a portion without asking; a caller that was refused is refused here until its
time has come. What each process still holds of a portion, at most 2% of the limit, is how far the count may be off.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from limits.aio.storage import MemoryStorage, RedisClusterStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.api_keys import ApiKeyStore
from api.http.authorization import HEADER
from api.http.problem_details import ProblemError, problem_response
from recsys_meta.core.errors import ConfigError
from recsys_meta.store.cache.circuit_breaker import CircuitBreaker
from recsys_meta.store.cache.redis_cache import CLUSTER_SUFFIX
from recsys_meta.store.cache.redis_node import FAILURES
from recsys_meta.store.config_entries import parse_rate_limit

PORTIONS = 50
"""A portion is the limit divided by this, at least one request."""

_MAX_CALLERS = 10_000
_LONGEST_REFUSAL_S = 1.0  # how long a refusal stands without asking again, seconds
_REDIS_S = 0.25  # how long Redis may take, seconds
_FREE = frozenset(("/livez", "/readyz", "/metrics"))
_HEADER = HEADER.lower().encode()


@dataclass
class _CallerWindow:
    """What a caller may still spend here, until when; until when it is refused unasked, and when its time comes."""

    left: int = 0
    until: float = 0.0
    refused: float = 0.0
    free: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RateLimiter:
    """Counts callers in a sliding window. Raises ConfigError for a limit that cannot be read."""

    def __init__(self, limit: str, redis_url: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._item = read_limit(limit)
        self._portion = max(1, self._item.amount // PORTIONS)
        self._seconds = float(self._item.get_expiry())
        self._clock = clock
        self._callers: OrderedDict[str, _CallerWindow] = OrderedDict()
        self._breaker = CircuitBreaker(failures=2, pause=0.5, max_pause=2.0)
        self._local = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._storage = None if redis_url is None else _storage(redis_url)
        self._shared = None if self._storage is None else SlidingWindowCounterRateLimiter(self._storage)

    async def hit(self, who: str) -> float | None:
        """Count a request; None where it may go on, else the seconds to wait. Never raises."""
        caller = self._caller(who)
        while True:
            now = self._clock()
            if caller.left and now < caller.until:
                caller.left -= 1
                return None
            if now < caller.refused:
                return caller.free - now
            if not caller.lock.locked():
                async with caller.lock:
                    await self._ask(who, caller)
            else:  # one asks; those who came meanwhile see what it got
                async with caller.lock:
                    pass

    async def close(self) -> None:
        """Close the connections."""
        if self._storage is not None:
            await self._storage.bridge.get_connection().aclose()  # type: ignore[attr-defined]

    async def _ask(self, who: str, caller: _CallerWindow) -> None:
        caller.left, wait = await self._portions(who)
        now = self._clock()
        caller.until, caller.free = now + self._seconds, now + wait
        caller.refused = 0.0 if caller.left else now + min(wait, _LONGEST_REFUSAL_S)

    async def _portions(self, who: str) -> tuple[int, float]:
        """A portion, or else one request, or none and the seconds to wait."""
        if self._shared is not None and self._breaker.allow_request():
            try:
                found = await self._draw(self._shared, who)
                self._breaker.record_success()
                return found
            except FAILURES:
                self._breaker.record_failure()
        return await self._draw(self._local, who)

    async def _draw(self, window: SlidingWindowCounterRateLimiter, who: str) -> tuple[int, float]:
        for cost in dict.fromkeys((self._portion, 1)):
            if await window.hit(self._item, who, cost=cost):
                return cost, 0.0
        stats = await window.get_window_stats(self._item, who)
        return 0, max(0.001, stats.reset_time - time.time())

    def _caller(self, who: str) -> _CallerWindow:
        """What is known of a caller; where there are too many, the one not seen longest is forgotten.

        To forget a caller is to lose what is left of its portion: it would be refused before its limit is reached.
        """
        found = self._callers.get(who)
        if found is None:
            found = self._callers[who] = _CallerWindow()
            if len(self._callers) > _MAX_CALLERS:
                self._callers.popitem(last=False)
        else:
            self._callers.move_to_end(who)
        return found


class RateLimitMiddleware:
    """ASGI middleware: 429 with `Retry-After` for who asks too often. Probes are never refused."""

    def __init__(self, app: ASGIApp, keys: ApiKeyStore, limiter: RateLimiter) -> None:
        self.app, self.keys, self.limiter = app, keys, limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _FREE:
            wait = await self.limiter.hit(caller_identity(self.keys, scope))
            if wait is not None:
                headers = {"retry-after": str(max(1, math.ceil(wait)))}
                problem = ProblemError(429, "Too many requests; Retry-After says when to come back", headers=headers)
                await problem_response(problem, scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def caller_identity(keys: ApiKeyStore, scope: Scope) -> str:
    """Who is counted: a key by its public id, else the address (of IPv6 the network of a customer).

    A key that is none of ours is counted by address, or guessing keys would be free. Nothing a caller sends becomes
    part of a name in Redis.
    """
    for name, value in scope["headers"]:
        if name == _HEADER:
            found = keys.find(value.decode("latin-1"))
            if found is not None:
                return f"key-{found.id}"
    client = scope.get("client")
    return f"address-{_address(str(client[0]))}" if client else "address-unknown"


def _address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "unknown"
    if address.version == 4:
        return str(address)
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((address.packed[:8] + bytes(8), 64)).network_address)


def _storage(url: str) -> RedisStorage:
    """Where all processes count. On a cluster the names of one caller lie on one node: limits puts them in braces."""
    retry = Retry(NoBackoff(), 0)
    common: Any = {"implementation": "redispy", "key_prefix": "recsys-meta:rate"}
    waits: Any = {"socket_timeout": _REDIS_S, "socket_connect_timeout": _REDIS_S, "retry": retry}
    scheme, _, rest = url.partition("://")
    try:
        if not scheme.endswith(CLUSTER_SUFFIX):
            pool: Any = redis.asyncio.ConnectionPool.from_url(url, **waits)
            return RedisStorage("async+redis://", connection_pool=pool, **common)
        secure: Any = {"ssl": True} if scheme.startswith("rediss") else {}
        return RedisClusterStorage(f"async+redis{CLUSTER_SUFFIX}://{rest}", **common, **waits, **secure)
    except ValueError:
        raise ConfigError("the Redis url cannot be read; expected redis://HOST:PORT/NUMBER") from None
