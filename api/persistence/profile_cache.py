"""Cache of entity profiles: the stored features and events of an entity, held in the process while unchanged.

Every entity has a *stamp* in Redis: a random number that is deleted after each commit that changed the entity. A copy
in this process is valid while its stamp is still there, so that a hot entity costs one GET and no SQL, in any number
of processes. A reader that finds no stamp sets one before it reads, never after. Without Redis there is no stamp, and
every read goes to SQL.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

from cachetools import TTLCache
from sqlalchemy.orm import Session

from api.persistence.async_database import AsyncDatabase
from api.persistence.cursor_key import CursorKey
from recsys_meta.inference.requests.entity import EncodedEntity
from recsys_meta.inference.requests.stored_events import StoredInteraction
from recsys_meta.store.cache.keys import owner_key
from recsys_meta.store.cache.redis_cache import RedisCache
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.database.engine import StoreUnavailable
from recsys_meta.store.entities import entities, profiles

EntityKey = tuple[str, str]
"""Kind and id of an entity."""

TaskKey = TypeVar("TaskKey")
Result = TypeVar("Result")

_MAX_COPIES = 4096
_MAX_COPIED_EVENTS = 100_000  # of all copies together
_COPY_TTL_S = 5.0  # bounds how stale a copy gets where Redis lost the deletion of a stamp
_STAMP_TTL_S = 24 * 3600.0
_MAX_PENDING = 100_000  # beyond it only `_COPY_TTL_S` bounds how long other processes trust their copies
_PENDING_BATCH = 500


@dataclass(frozen=True)
class EntityProfile:
    """Features and events of one entity, as stored. Without a `stamp` another read may differ.

    `encodings` holds what models encoded of it, by their marks: reading thousands of events anew for each request
    costs more than all the rest of the request.
    """

    features: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[StoredInteraction, ...] = ()
    stamp: str | None = None
    encodings: dict[str, EncodedEntity] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def digest(self) -> str:
        """Return a digest of features and events, in 32 hex digits.

        Results computed from a profile are valid while its digest is the same. The stamp does not say so: Redis may
        have restored one that it was told to delete.
        """
        events = [(e.event_id, e.item, e.label, e.time, e.context) for e in self.events]
        content = repr((sorted(self.features.items()), events)).encode(errors="surrogatepass")
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def continues(self, earlier: EntityProfile) -> bool:
        """Return whether this is a later profile of the same entity: not erased, features equal, no event gone."""
        ids = {e.event_id for e in self.events}
        same = self.features == earlier.features and all(e.event_id in ids for e in earlier.events)
        return same and bool(self.events or self.features)


def read_profile(session: Session, kind: str, entity: str) -> EntityProfile:
    """Read a profile from the database; that of an unknown entity is empty."""
    return EntityProfile(*profiles.read_stored_profile(session, kind, entity))


def copy_cache(timer: Callable[[], float] = time.monotonic) -> TTLCache[EntityKey, EntityProfile]:
    """Return an empty cache of profiles, bounded in events and in age, that evicts the least recently used."""
    return TTLCache(_MAX_COPIED_EVENTS, _COPY_TTL_S, timer, getsizeof=lambda profile: len(profile.events))


class ProfileCache:
    """Profiles of all entities, and the key of the cursors in their lists."""

    def __init__(self, database: AsyncDatabase, redis: RedisCache | None, cursor_key: CursorKey | None = None) -> None:
        self._database, self._redis = database, redis
        self._copies = copy_cache()
        self._pending: set[str] = set()  # keys of stamps whose deletion failed, since Redis was unavailable
        self._stamp_tasks: dict[EntityKey, asyncio.Task[str | None]] = {}
        self._read_tasks: dict[tuple[EntityKey, str], asyncio.Task[EntityProfile | None]] = {}
        self.cursor_key = cursor_key or CursorKey()

    async def load(self, kind: str, entity: str) -> EntityProfile | None:
        """Return the profile of an entity, None while the database is unavailable."""
        key = (kind, entity)
        self._copies.expire()  # of an entity that another process erased nothing shall stay in memory
        stamp = await self._stamp(kind, entity)
        if stamp is None:
            return await self._read(kind, entity, None)
        copy = self._copies.get(key)
        if copy is not None and copy.stamp == stamp:
            return copy
        # A request that found the same stamp may share a read that began after the stamp was set.
        return await _share(self._read_tasks, (key, stamp), lambda: self._read(kind, entity, stamp))

    async def _read(self, kind: str, entity: str, stamp: str | None) -> EntityProfile | None:
        try:
            profile = await self._database.try_read(lambda s: read_profile(s, kind, entity))
        except StoreUnavailable:
            return None
        profile = EntityProfile(profile.features, profile.events, stamp)
        if stamp is not None:
            self._copy((kind, entity), profile)
        return profile

    def _copy(self, key: EntityKey, profile: EntityProfile) -> None:
        self._copies.pop(key, None)
        if len(profile.events) > _MAX_COPIED_EVENTS:
            return  # TTLCache raises ValueError for a value that is larger than all of it
        while len(self._copies) >= _MAX_COPIES:  # TTLCache has one bound, that of the events
            self._copies.popitem()
        self._copies[key] = profile

    async def is_current(self, kind: str, entity: str, profile: EntityProfile | None) -> bool:
        """Return whether everything in a profile is still stored, so that what was computed from it may be cached.

        New events do not count against it: a reader of a list page by page goes on in the old order. True without
        Redis, where a changed entity cannot be told from an unchanged one.
        """
        if profile is None or profile.stamp is None or self._redis is None:
            return True
        raw = await self._redis.get(stamp_key(kind, entity))
        if raw is not None and raw.decode() == profile.stamp:
            return True
        later = await self._read(kind, entity, None)
        return later is not None and later.continues(profile)

    async def was_erased(self, kind: str, entity: str, seconds: float) -> bool:
        """Return whether an entity was erased in the last `seconds`, and a process may still remember it.

        False while the database is unavailable: then nothing can be erased either.
        """
        since = utcnow(None) - timedelta(seconds=seconds)
        try:
            return await self._database.try_read(lambda s: entities.erased_since(s, kind, entity, since))
        except StoreUnavailable:
            return False

    async def invalidate(self, keys: Iterable[EntityKey]) -> bool:
        """Invalidate the profiles of entities, after the commit that changed them; False where Redis failed.

        Redis is then told later, by `flush_pending`.
        """
        keys = list(keys)
        self._copies.expire()
        for key in keys:
            self._copies.pop(key, None)
        if self._redis is None or not keys:
            return True
        stamps = [stamp_key(*key) for key in keys]
        try:
            await self._redis.delete(stamps)
        except StoreUnavailable:
            self._add_pending(stamps)
            return False
        return True

    def _add_pending(self, stamps: Iterable[str]) -> None:
        self._pending.update(stamps)
        while len(self._pending) > _MAX_PENDING:
            self._pending.pop()

    async def flush_pending(self) -> None:
        """Delete the stamps whose deletion failed, once Redis is back; the server's poll calls this.

        Redis may have kept those stamps, and other processes trust their copies while the stamps stand.
        """
        while self._redis is not None and self._pending and not self._redis.degraded:
            batch = list(islice(self._pending, _PENDING_BATCH))
            self._pending.difference_update(batch)
            try:
                await self._redis.delete(batch)
            except StoreUnavailable:
                self._add_pending(batch)
                return

    async def _stamp(self, kind: str, entity: str) -> str | None:
        if self._redis is None:
            return None
        key = stamp_key(kind, entity)
        raw = await self._redis.get(key)
        if raw is not None:
            return raw.decode()
        if self._redis.is_unavailable(key):
            return None
        # Requests that come before it is set share it: their reads begin after it, too.
        return await _share(self._stamp_tasks, (kind, entity), lambda: self._set_stamp(key))

    async def _set_stamp(self, key: str) -> str | None:
        assert self._redis is not None
        # Set only if absent: of two processes, the second must not make the first one's read look outdated.
        stamp = await self._redis.claim(key, str(secrets.randbits(62)).encode(), _STAMP_TTL_S)
        return None if stamp is None else stamp.decode()


def stamp_key(kind: str, entity: str) -> str:
    """Return the Redis key of an entity's stamp: a digest, since no id leaves the database."""
    return owner_key(kind, entity)


async def _share(tasks: dict[TaskKey, asyncio.Task[Result]], key: TaskKey, work: Callable[[], Any]) -> Result:
    """Run a coroutine once for all that await it meanwhile; one that is cancelled does not cancel it for the rest."""
    task = tasks.get(key)
    if task is None:
        task = tasks[key] = asyncio.ensure_future(work())
        task.add_done_callback(lambda _: tasks.pop(key))
    return await asyncio.shield(task)
