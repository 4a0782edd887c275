"""LRU cache in the process, bounded by bytes."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

ENTRY_OVERHEAD_BYTES = 300  # estimated cost of an entry's bookkeeping


class _CacheEntry(NamedTuple):
    value: bytes
    expires: float
    owner: str | None
    size: int


class MemoryCache:
    """LRU cache for all threads of a process. ``max_bytes`` bounds values, keys and bookkeeping together.

    An index by owner (`keys.owner_key`) lets an erasure delete all values of an entity.
    """

    degraded = False

    def __init__(self, max_bytes: int = 64 * 2**20, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes, self._clock = max_bytes, clock
        self._entries: OrderedDict[str, _CacheEntry] = OrderedDict()
        self._owned: dict[str, set[str]] = {}
        self._size = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Size of all entries in bytes, bookkeeping included."""
        return self._size

    def get(self, key: str) -> bytes | None:
        """Return the value, None for a miss or an expired entry."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry.expires <= self._clock():
                self._remove(key)
                return None
            self._entries.move_to_end(key)
            return entry.value

    def set(self, key: str, value: bytes, ttl: float, owner: str | None = None) -> None:
        """Store a value for ``ttl`` seconds. A value larger than the whole cache is not stored."""
        size = len(value) + len(key) + ENTRY_OVERHEAD_BYTES
        with self._lock:
            self._remove(key)
            if size > self._max_bytes or ttl <= 0:
                return
            self._entries[key] = _CacheEntry(bytes(value), self._clock() + ttl, owner, size)
            self._size += size
            if owner is not None:
                self._owned.setdefault(owner, set()).add(key)
            while self._size > self._max_bytes:
                self._remove(next(iter(self._entries)))

    def delete(self, keys: Iterable[str]) -> int:
        """Delete keys; return how many were present."""
        with self._lock:
            return sum([self._remove(key) for key in keys])

    def delete_owned(self, owner: str) -> int:
        """Delete all entries of an owner; return how many."""
        with self._lock:
            return sum([self._remove(key) for key in list(self._owned.get(owner, ()))])

    def close(self) -> None:
        """Delete all entries."""
        with self._lock:
            self._entries.clear()
            self._owned.clear()
            self._size = 0

    def _remove(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._size -= entry.size
        if entry.owner is not None:
            keys = self._owned[entry.owner]
            keys.discard(key)
            if not keys:
                del self._owned[entry.owner]
        return True
