"""What is stored of an entity, kept at hand while it has not changed.

Every entity has a *stamp* in Redis: a random word that whoever changes the entity deletes after the commit. A copy in
this process is good while its stamp is still there, so that a hot entity costs one GET and no SQL, in any
number of processes. A reader that finds no stamp sets one before it reads, never after.
Without Redis there is no stamp, and every read asks SQL.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from api.persistence.async_database import AsyncDatabase
from recsys_meta.inference.ranking.list_cursor import secret_of
from recsys_meta.inference.recommender import EncodedEntity
from recsys_meta.inference.requests.stored_events import StoredInteraction
from recsys_meta.store.cache.keys import owner_key
from recsys_meta.store.cache.redis_cache import RedisCache
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.database.engine import StoreUnavailable
from recsys_meta.store.entities import entities, profiles

EntityKey = tuple[str, str]
"""Kind and id."""

ProfileKey = TypeVar("ProfileKey")
Result = TypeVar("Result")

_COPIES = 4096
_COPIED_EVENTS = 100_000  # of all copies together
_COPY_S = 5.0  # bounds how stale a copy gets where Redis lost the deletion of a stamp
_STAMP_S = 24 * 3600.0
_MOST_OWED = 100_000  # beyond it the age of a copy alone bounds how long others trust it
_PAID_AT_ONCE = 500


@dataclass(frozen=True)
class EntityProfile:
    """Features and events of one entity, as stored. `stamp` None: another read may differ.

    `memo`: what models made of it, by version: to read thousands of events anew for each request costs more than all
    that follows.
    """

    features: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[StoredInteraction, ...] = ()
    stamp: str | None = None
    encodings: dict[str, EncodedEntity] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def digest(self) -> str:
        """A digest of all that is stored: what was made of it is good as long as it is the same, whatever became of
        the stamp, which Redis may keep though it was told to delete it."""
        told = [(e.event_id, e.item, e.label, e.time, e.context) for e in self.events]
        written = repr((sorted(self.features.items()), told)).encode(errors="surrogatepass")
        return hashlib.blake2b(written, digest_size=16).hexdigest()

    def continues(self, old: EntityProfile) -> bool:
        """Whether this is the same entity later on: it was not erased, and nothing was taken from it."""
        there = {e.event_id for e in self.events}
        same = self.features == old.features and all(e.event_id in there for e in old.events)
        return same and bool(self.events or self.features)


def read_profile(session: Session, kind: str, entity: str) -> EntityProfile:
    """The profile in the database; an entity never heard of has an empty one."""
    return EntityProfile(*profiles.read_stored_profile(session, kind, entity))


class ProfileCache:
    """Profiles of all entities. `secret` signs the cursors of their lists, in every process of the database alike."""

    def __init__(self, database: AsyncDatabase, redis: RedisCache | None) -> None:
        self._database, self._redis = database, redis
        self._copies: OrderedDict[EntityKey, EntityProfile] = OrderedDict()  # the one used last comes last
        self._until: OrderedDict[EntityKey, float] = OrderedDict()  # when they are too old, the oldest first
        self._copied = 0  # events in them
        self._owed: set[str] = set()  # keys of stamps that Redis could not be told to forget
        self._stamping: dict[EntityKey, asyncio.Task[str | None]] = {}
        self._reading: dict[tuple[EntityKey, str], asyncio.Task[EntityProfile | None]] = {}
        self.secret = secret_of(database.engine.url.render_as_string(hide_password=False))

    async def load(self, kind: str, entity: str) -> EntityProfile | None:
        """The profile of an entity, None where the database is away."""
        name = (kind, entity)
        self._forget_old()
        stamp = await self._stamp(kind, entity)
        if stamp is None:
            return await self._read(kind, entity, None)
        copy = self._copies.get(name)
        if copy is not None and copy.stamp == stamp and time.monotonic() < self._until[name]:
            self._copies.move_to_end(name)
            return copy
        # Who found the same stamp may share a reading that began after the stamp was set.
        return await _shared(self._reading, (name, stamp), lambda: self._read(kind, entity, stamp))

    async def _read(self, kind: str, entity: str, stamp: str | None) -> EntityProfile | None:
        try:
            found = await self._database.try_read(lambda s: read_profile(s, kind, entity))
        except StoreUnavailable:
            return None
        profile = EntityProfile(found.features, found.events, stamp)
        if stamp is not None:
            self._copy((kind, entity), profile)
        return profile

    def _copy(self, name: EntityKey, profile: EntityProfile) -> None:
        """Keep a copy, and as many of those used last as there is room for."""
        self._drop(name)
        self._copies[name], self._until[name] = profile, time.monotonic() + _COPY_S
        self._copied += len(profile.events)
        while len(self._copies) > _COPIES or self._copied > _COPIED_EVENTS:
            self._drop(next(iter(self._copies)))

    def _forget_old(self) -> None:
        """Drop copies that are too old to be used: of an entity erased elsewhere nothing shall stay."""
        now = time.monotonic()
        while self._until and (name := next(iter(self._until))) and self._until[name] <= now:
            self._drop(name)

    def _drop(self, name: EntityKey) -> None:
        copy = self._copies.pop(name, None)
        if copy is not None:
            del self._until[name]
            self._copied -= len(copy.events)

    async def is_current(self, kind: str, entity: str, profile: EntityProfile | None) -> bool:
        """Whether all that a profile holds is still stored, so that what was made of it may be kept.

        Events that came since are no reason against: whoever reads a list page by page goes on in its old order.
        True where there is no telling an entity that changed from one that did not.
        """
        if profile is None or profile.stamp is None or self._redis is None:
            return True
        raw = await self._redis.get(stamp_key(kind, entity))
        if raw is not None and raw.decode() == profile.stamp:
            return True
        now = await self._read(kind, entity, None)
        return now is not None and now.continues(profile)

    async def was_erased(self, kind: str, entity: str, seconds: float) -> bool:
        """Whether an entity was erased within so many seconds, so that the memory of some process may still have what
        was made of it. False where the database is away: nobody can say, and nothing can be erased."""
        since = utcnow(None) - timedelta(seconds=seconds)
        try:
            return await self._database.try_read(lambda s: entities.erased_since(s, kind, entity, since))
        except StoreUnavailable:
            return False

    async def invalidate(self, names: Iterable[EntityKey]) -> bool:
        """To be called after a commit that changed entities. False where Redis could not be told."""
        names = list(names)
        for name in names:
            self._drop(name)
        if self._redis is None or not names:
            return True
        keys = [stamp_key(*name) for name in names]
        try:
            await self._redis.delete(keys)
        except StoreUnavailable:
            self._owe(keys)
            return False
        return True

    def _owe(self, keys: Iterable[str]) -> None:
        self._owed.update(keys)
        while len(self._owed) > _MOST_OWED:
            self._owed.pop()

    async def flush_pending(self) -> None:
        """To be called now and then: delete the stamps that could not be deleted, once Redis is back. It may have kept
        them, and other processes trust their copies of a profile as long as its stamp stands."""
        while self._redis is not None and self._owed and not self._redis.degraded:
            part = list(islice(self._owed, _PAID_AT_ONCE))
            self._owed.difference_update(part)
            try:
                await self._redis.delete(part)
            except StoreUnavailable:
                self._owe(part)
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
        # Those who come before it is set take the same one: their reading begins after it, too.
        return await _shared(self._stamping, (kind, entity), lambda: self._set_stamp(key))

    async def _set_stamp(self, key: str) -> str | None:
        assert self._redis is not None
        # Claimed: of two processes that find none, the later must not make the earlier one's reading look old.
        stamp = await self._redis.claim(key, str(secrets.randbits(62)).encode(), _STAMP_S)
        return None if stamp is None else stamp.decode()


def stamp_key(kind: str, entity: str) -> str:
    """Where the stamp of an entity lies: a digest, since no id leaves the database."""
    return owner_key(kind, entity)


async def _shared(
    under_way: dict[ProfileKey, asyncio.Task[Result]], key: ProfileKey, work: Callable[[], Any]
) -> Result:
    """Do something once for all who ask for it while it is under way. Who goes away disturbs nobody."""
    task = under_way.get(key)
    if task is None:
        task = under_way[key] = asyncio.ensure_future(work())
        task.add_done_callback(lambda _: under_way.pop(key))
    return await asyncio.shield(task)
