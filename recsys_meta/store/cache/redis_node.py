"""One server of the shared cache: a single Redis, or a node of a Redis Cluster.

Each node has circuit breakers and pending GETs of its own: an outage of one does not affect the others. Reads and
writes have a breaker each: a replica that refuses writes, or a server whose memory is full, can still be read.
"""

import asyncio
import logging
import os
import re
import socket
import ssl
from collections.abc import Awaitable, Callable

import redis
from redis.exceptions import RedisClusterException

from recsys_meta.store.cache.circuit_breaker import CircuitBreaker
from recsys_meta.store.cache.keys import redis_name, unseal_value

MAX_KEYS = 256  # keys in one MGET
# The last three: a reply of an unexpected form, from a server that is not Redis.
FAILURES = (redis.RedisError, RedisClusterException, OSError, TimeoutError, ValueError, TypeError, AttributeError)

# The code at the start of Redis's errors, which the client replaces by a class.
_CODES: dict[type[BaseException], str] = {
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.AuthenticationError: "NOAUTH",
}
# A host with its port, or an address: `MOVED 3999 10.0.0.1:6381`, `connecting to cache.example:6379`.
_ADDRESS = re.compile(r"\[[0-9a-fA-F:.]+\](:\d+)?|[\w.-]+:\d+|\d+\.\d+\.\d+\.\d+")
log = logging.getLogger(__name__)


class RedisNode:
    """Server for one event loop. ``fetch`` returns the values of a list of names, None where a name has none.

    Concurrent GETs are batched: keys requested while one MGET is in flight make up the next.
    """

    def __init__(self, breaker: CircuitBreaker, fetch: Callable[[list[str]], Awaitable[list[bytes | None]]]) -> None:
        self.reading, self.writing = breaker.fresh_copy(), breaker.fresh_copy()
        self._fetch = fetch
        self._waiting: list[tuple[str, asyncio.Future[bytes | None]]] = []
        self._reader: asyncio.Task[None] | None = None

    @property
    def degraded(self) -> bool:
        """True if the server could not be read or written at the last attempt."""
        return self.reading.degraded or self.writing.degraded

    def get(self, key: str) -> "asyncio.Future[bytes | None]":
        """Return a future of the value: None for a miss, an outage or a damaged value. Never raises.

        The request is queued at once, not when the future is awaited.
        """
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
        """Resolve the pending GETs, one MGET after another, until none is left."""
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
            # After a failure no GET may stay pending, nor wait for a timeout of its own.
            for _, answer in [*batch, *self._waiting]:
                _set_result(answer, None)
            self._waiting, self._reader = [], None


def redis_cause(error: BaseException) -> str:
    """Return why Redis does not serve, in words for anybody: its own where it said something, without addresses."""
    text = _ADDRESS.sub("...", " ".join(str(error).split()))[:200]
    if isinstance(error, redis.AuthenticationError | redis.ResponseError | redis.BusyLoadingError) and text:
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), "")
        code = "WRONGPASS" if code == "NOAUTH" and "invalid" in text else code
        return f"Redis refuses: {text if text.startswith(code) else f'{code} {text}'}"
    causes: list[BaseException | None] = [error, error.__cause__, error.__context__]
    number = next((e.errno for e in causes if isinstance(e, OSError) and e.errno), None)
    if isinstance(error, redis.TimeoutError | TimeoutError):
        reason = "it did not answer in time"
    elif "max number of clients" in text or "loading" in text.lower():
        return f"Redis refuses: {text}"
    elif any(isinstance(e, socket.gaierror) for e in causes):
        reason = "its host is not known"
    elif any(isinstance(e, ssl.SSLError) for e in causes) or "SSL" in text:
        reason = "TLS fails"
    elif number is not None or "refused" in text.lower() or "Connect call failed" in text:
        reason = os.strerror(number).lower() if number else "connection refused"
    elif isinstance(error, redis.ConnectionError) and "closed" in text.lower():
        reason = "it closed the connection"
    else:
        reason = type(error).__name__
    return f"Redis cannot be reached: {reason}"


def log_outage(breaker: CircuitBreaker, error: BaseException) -> None:
    """Record a failure, and log it if it is the first in a row."""
    if not breaker.degraded:
        log.warning("going on without Redis: %s", redis_cause(error))
    breaker.record_failure()


def _set_result(waiting: "asyncio.Future[bytes | None]", value: bytes | None) -> None:
    if not waiting.done():  # its caller may have been cancelled
        waiting.set_result(value)
