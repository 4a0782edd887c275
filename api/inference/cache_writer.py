"""Writes of states and lists to the caches: the process's memory at once, Redis when the response is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from api.inference.entity_context import EntityContext
from api.persistence.profile_cache import ProfileCache
from recsys_meta.store.cache.memory_cache import MemoryCache
from recsys_meta.store.cache.redis_cache import RedisCache
from recsys_meta.store.database.engine import StoreUnavailable

MEMORY_TTL_S = 300.0
"""Time that a process keeps a state or a list, seconds."""

REDIS_TTL_S = 24 * 3600.0
"""Time that Redis keeps a state, seconds."""

_MAX_PENDING = 512  # further writes are dropped, and cost one adaptation each
_GATHER_S = 0.005  # time in which writes gather for one exchange with Redis, seconds

_Write = tuple[str, bytes, EntityContext, float]


class CacheWriter:
    """Queue of writes to Redis (None: there is none), many of which share an exchange."""

    def __init__(self, memory: MemoryCache, redis: RedisCache | None, profiles: ProfileCache) -> None:
        self._memory, self._redis, self._profiles = memory, redis, profiles
        self._queued: list[_Write] = []
        self._sending: list[_Write] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """Writes that have not reached Redis."""
        return len(self._queued) + len(self._sending)

    def put(self, key: str, raw: bytes, entity_context: EntityContext, seconds: float) -> None:
        """Keep a state or a list in this process, and for `seconds` in Redis."""
        self._memory.set(key, raw, MEMORY_TTL_S, entity_context.owner)
        if self._redis is None or self.pending >= _MAX_PENDING:
            return
        self._queued.append((key, raw, entity_context, seconds))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send(self._redis))

    async def close(self) -> None:
        """Wait for pending writes, for a second at most."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=1.0)

    async def _send(self, redis: RedisCache) -> None:
        """Send until the queue is empty: many writes in one exchange cost about as much as one."""
        try:
            while self._queued:
                await asyncio.sleep(_GATHER_S)
                self._sending, self._queued = self._queued, []
                await redis.set_all([(key, raw, seconds) for key, raw, _, seconds in self._sending])
                # What belongs to an entity that was erased meanwhile must not come back. Checked after the write: so an
                # erasure by any process either finds the keys or is seen here.
                await self._delete_erased(redis, [write for write in self._sending if write[2].entity is not None])
        finally:
            self._sending, self._task = [], None

    async def _delete_erased(self, redis: RedisCache, owned: Sequence[_Write]) -> None:
        """Delete what was just written of entities that were erased meanwhile."""
        if not owned:
            return
        current = await asyncio.gather(*(self._is_current(context) for _, _, context, _ in owned))
        if erased_keys := [write[0] for write, ok in zip(owned, current, strict=True) if not ok]:
            self._memory.delete(erased_keys)
            with suppress(StoreUnavailable):
                await redis.delete(erased_keys)

    async def _is_current(self, context: EntityContext) -> bool:
        entity = context.entity
        return entity is None or await self._profiles.is_current(context.kind, entity, context.profile)
