"""The process's own cache in front of the shared one, as the API uses them; the shared one may be absent."""

from collections.abc import Iterable

from recsys_meta.store.cache.keys import AsyncCache
from recsys_meta.store.cache.memory_cache import MemoryCache


class LayeredCache:
    """An `AsyncCache`. ``local_ttl`` in seconds bounds how long a copy in this process outlives an erasure
    that another process was asked for; its key is not asked for again in any case."""

    def __init__(self, memory: MemoryCache, shared: AsyncCache | None = None, *, local_ttl: float = 300.0) -> None:
        self.memory, self.shared, self._local_ttl = memory, shared, local_ttl

    @property
    def degraded(self) -> bool:
        """Whether there is a shared cache and it could not be reached when last asked."""
        return self.shared is not None and self.shared.degraded

    async def get(self, key: str, owner: str | None = None) -> bytes | None:
        """The value from this process or else from the shared cache. Never raises."""
        value = self.memory.get(key)
        if value is None and self.shared is not None:
            value = await self.shared.get(key, owner)
            if value is not None:
                self.memory.set(key, value, self._local_ttl, owner)
        return value

    async def set(self, key: str, value: bytes, ttl: float, owner: str | None = None) -> None:
        """Keep a value in both. Never raises."""
        self.memory.set(key, value, ttl if self.shared is None else min(ttl, self._local_ttl), owner)
        if self.shared is not None:
            await self.shared.set(key, value, ttl, owner)

    async def delete(self, keys: Iterable[str]) -> int:
        """Forget keys in both; answers how many there were where more were. Raises Unavailable."""
        names = list(keys)
        here = self.memory.delete(names)
        return here if self.shared is None else max(here, await self.shared.delete(names))

    async def delete_owned(self, owner: str) -> int:
        """Forget all that was set for an owner in both, as `delete` does. Raises Unavailable."""
        here = self.memory.delete_owned(owner)
        return here if self.shared is None else max(here, await self.shared.delete_owned(owner))

    async def close(self) -> None:
        """Close both."""
        self.memory.close()
        if self.shared is not None:
            await self.shared.close()
