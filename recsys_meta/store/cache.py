"""What every cache of derived bytes promises, and how its keys and values look.

A key names all that its value was derived from, so nothing is ever invalidated. What belongs to an entity is kept
under its owner key as well, so that an erasure finds all of it.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterable
from typing import Protocol

_FRAME = struct.Struct(">4sII")  # magic, length in bytes, CRC-32
_MAGIC = b"rsm1"


class Cache(Protocol):
    """A cache for synchronous callers. ``ttl`` is in seconds, ``owner`` comes from `owner_key`."""

    @property
    def degraded(self) -> bool:
        """Whether the cache could not be reached when last asked."""

    def get(self, key: str) -> bytes | None:
        """The value, None for a miss, an outage or a value that is damaged. Never raises."""

    def set(self, key: str, value: bytes, ttl: float, owner: str | None = None) -> None:
        """Keep a value. Never raises; an outage loses it."""

    def delete(self, keys: Iterable[str]) -> int:
        """Forget keys; answers how many there were. Raises Unavailable: a deletion may not silently fail."""

    def delete_owned(self, owner: str) -> int:
        """Forget all that was set for an owner; answers how many keys. Raises Unavailable."""

    def close(self) -> None:
        """Let go of connections."""


class AsyncCache(Protocol):
    """The same for an event loop."""

    @property
    def degraded(self) -> bool:
        """Whether the cache could not be reached when last asked."""

    async def get(self, key: str, owner: str | None = None) -> bytes | None:
        """As `Cache.get`; ``owner`` is for caches that keep a copy nearer by."""

    async def set(self, key: str, value: bytes, ttl: float, owner: str | None = None) -> None:
        """As `Cache.set`."""

    async def delete(self, keys: Iterable[str]) -> int:
        """As `Cache.delete`."""

    async def delete_owned(self, owner: str) -> int:
        """As `Cache.delete_owned`."""

    async def close(self) -> None:
        """As `Cache.close`."""


def state_key(model_version: str, kind: str, entity: str, support_digest: str) -> str:
    """The key of an adapted state: the digest of all that it is derived from."""
    return "state:" + _digest(model_version, kind, entity, support_digest)


def owner_key(kind: str, entity: str) -> str:
    """The key under which all that belongs to an entity is found again."""
    return "owner:" + _digest(kind, entity)


def frame(value: bytes) -> bytes:
    """The value behind its length and checksum."""
    return _FRAME.pack(_MAGIC, len(value), zlib.crc32(value)) + value


def unframe(raw: bytes) -> bytes | None:
    """The value that was framed, None where the bytes are anything else."""
    if len(raw) < _FRAME.size:
        return None
    magic, length, checksum = _FRAME.unpack_from(raw)
    value = raw[_FRAME.size :]
    if magic != _MAGIC or length != len(value) or checksum != zlib.crc32(value):
        return None
    return value


def _digest(*parts: str) -> str:
    """128 bits of the parts. Each goes in behind its length: ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part.encode(errors="surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()
