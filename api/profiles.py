"""What is stored of an entity, kept at hand while it has not changed.

Every entity has a *stamp* in Redis: a random word that whoever changes the entity deletes after the commit. A copy in
this process is good while its stamp is still there, so that a hot entity costs one GET and no SQL, in any
number of processes. A reader that finds no stamp sets one before it reads, never after.
Without Redis there is no stamp, and every read asks SQL.
"""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from api.database import Database
from recsys_meta.store import entities, events
from recsys_meta.store.cache import owner_key, state_key
from recsys_meta.store.engine import Unavailable
from recsys_meta.store.redis_cache import RedisCache

Name = tuple[str, str]
"""Kind and id."""

MOST_EVENTS = 2000
"""Newest stored events of an entity that an answer looks at."""

_COPIES = 4096
_LONGEST = 500  # events of a profile that is worth a copy
_COPY_S = 5.0  # bounds how stale a copy gets where Redis lost the deletion of a stamp
_STAMP_S = 24 * 3600.0


@dataclass(frozen=True)
class Stored:
    """An interaction in the database; `time` in seconds since 1970 UTC."""

    event_id: str
    item: str
    label: float
    time: float


@dataclass(frozen=True)
class Profile:
    """Features and events of one entity, as stored. `stamp` None: another read may differ."""

    features: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[Stored, ...] = ()
    stamp: str | None = None


def read_profile(session: Session, kind: str, entity: str) -> Profile:
    """The profile in the database; an entity never heard of has an empty one."""
    row = entities.find(session, kind, entity)
    rows = events.support(session, kind, entity, MOST_EVENTS)
    stored = tuple(Stored(e.event_id, e.item, e.label, e.time.timestamp()) for e in rows)
    return Profile({} if row is None else row.features, stored)


class Profiles:
    """Profiles of all entities."""

    def __init__(self, database: Database, redis: RedisCache | None) -> None:
        self._database, self._redis = database, redis
        self._copies: OrderedDict[Name, tuple[float, Profile]] = OrderedDict()

    async def load(self, kind: str, entity: str) -> Profile | None:
        """The profile of an entity, None where the database is away."""
        stamp = await self._stamp(kind, entity)
        if stamp is not None:
            until, copy = self._copies.get((kind, entity), (0.0, None))
            if copy is not None and copy.stamp == stamp and time.monotonic() < until:
                return copy
        try:
            found = await self._database.glance(lambda s: read_profile(s, kind, entity))
        except Unavailable:
            return None
        profile = Profile(found.features, found.events, stamp)
        if stamp is not None and len(profile.events) <= _LONGEST:
            self._copies[kind, entity] = time.monotonic() + _COPY_S, profile
            self._copies.move_to_end((kind, entity))
            if len(self._copies) > _COPIES:
                self._copies.popitem(last=False)
        return profile

    async def current(self, kind: str, entity: str, stamp: str | None) -> bool:
        """Whether an entity is still as it was when it had this stamp; True where it cannot be told."""
        if stamp is None or self._redis is None:
            return True
        raw = await self._redis.get(stamp_key(kind, entity))
        return raw is not None and raw.decode() == stamp

    async def changed(self, names: Iterable[Name]) -> bool:
        """To be called after a commit that changed entities. False where Redis could not be told."""
        names = list(names)
        for name in names:
            self._copies.pop(name, None)
        if self._redis is None or not names:
            return True
        try:
            await self._redis.delete(stamp_key(*name) for name in names)
        except Unavailable:
            return False
        return True

    async def _stamp(self, kind: str, entity: str) -> str | None:
        if self._redis is None:
            return None
        key = stamp_key(kind, entity)
        raw = await self._redis.get(key)
        if raw is not None:
            return raw.decode()
        if self._redis.degraded:
            return None
        stamp = uuid.uuid4().hex
        await self._redis.set(key, stamp.encode(), _STAMP_S, owner_key(kind, entity))
        return None if self._redis.degraded else stamp


def stamp_key(kind: str, entity: str) -> str:
    """Where the stamp of an entity lies: a digest, since no id leaves the database."""
    return "stamp:" + state_key("", kind, entity, "").partition(":")[2]
