"""All that the routes share, opened when the server starts and closed when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from api.database import Database
from api.diagnosis import Diagnoser
from api.metrics import Metrics
from api.profiles import Profiles
from api.registry import Registry
from api.serving import Ladder
from recsys_meta.errors import RecsysMetaError
from recsys_meta.store import migrate
from recsys_meta.store.breaker import Breaker
from recsys_meta.store.engine import Unavailable
from recsys_meta.store.memory_cache import MemoryCache
from recsys_meta.store.redis_cache import RedisCache
from recsys_meta.store.settings import Settings
from recsys_meta.store.writer import Writer, to_database

POLL_S = 1.0
"""How often a process asks what went live, and whether what was away is back, seconds."""

REDIS_S = 0.25
"""How long an answer waits for Redis, seconds; after two such waits nobody waits for a while."""


@dataclass(frozen=True)
class House:
    """One process's share of the service."""

    database: Database
    redis: RedisCache | None
    memory: MemoryCache
    profiles: Profiles
    registry: Registry
    ladder: Ladder
    writer: Writer
    diagnoser: Diagnoser
    metrics: Metrics
    log: Any

    def missing(self, *, profile: bool = True, model: bool = True) -> list[str]:
        """What an answer had to do without: the database (or, False, the entity's profile), Redis, the model."""
        found = ["database"] if self.database.degraded or not profile else []
        found += ["redis"] if self.redis is not None and self.redis.degraded else []
        found += [] if model else ["model"]
        for name in found:
            self.metrics.degraded.labels(name).inc()
        return found

    async def refresh(self) -> None:
        """Take into service what went live. Raises Unavailable."""
        for served in await self.registry.refresh():
            self.metrics.swaps.labels(served.name).inc()
            self.log.info("model in service", model=served.name, version=served.version, ms=round(served.pace.ms, 3))


@asynccontextmanager
async def open_house(settings: Settings, metrics: Metrics, log: Any) -> AsyncIterator[House]:
    """Open everything. What is away is waited for in the background: the server starts without it."""
    # Requests are served side by side; threads within one operation would only fight each other.
    torch.set_num_threads(1)
    house = _open(settings, metrics, log)
    _watch(house)
    if settings.database.startswith("sqlite"):
        # Our own file. A PostgreSQL database may be shared: `recsys-meta db upgrade` is for its owner to run.
        with suppress(Unavailable):
            await asyncio.to_thread(migrate.upgrade, settings.database)
    await _look(house)
    closing = asyncio.Event()
    poll = asyncio.create_task(_poll(house, closing))
    try:
        yield house
    finally:
        # Python 3.11's wait_for loses a cancellation that comes as its work ends: the poll must see the event too.
        closing.set()
        poll.cancel()
        with suppress(asyncio.CancelledError):
            await poll
        await _close(house)


def _open(settings: Settings, metrics: Metrics, log: Any) -> House:
    database = Database(settings.database)
    redis = None
    if settings.redis is not None:
        breaker = Breaker(failures=2, pause=0.5, longest=2.0)
        redis = RedisCache(settings.redis, timeout=REDIS_S, breaker=breaker)
    memory, profiles = MemoryCache(), Profiles(database, redis)
    writer = Writer(to_database(database.engine), longest_backoff=2.0)
    return House(
        database=database,
        redis=redis,
        memory=memory,
        profiles=profiles,
        registry=Registry(database, settings.models.resolve()),
        ladder=Ladder(memory, redis, profiles, log),
        writer=writer,
        diagnoser=Diagnoser(writer, log),
        metrics=metrics,
        log=log,
    )


def _watch(house: House) -> None:
    watch = house.metrics.watch
    watch("writer_waiting_rows", "Rows waiting for the database", lambda: house.writer.waiting)
    watch("writer_dropped_rows", "Rows lost", lambda: house.writer.dropped)
    watch("diagnoses_waiting", "Adaptations waiting for their figures", lambda: house.diagnoser.waiting)
    watch("diagnoses_skipped", "Adaptations written without figures", lambda: house.diagnoser.skipped)
    watch("redis_writes", "States on their way to Redis", lambda: house.ladder.writing)
    watch("memory_cache_bytes", "Size of the cache in this process", lambda: house.memory.size)
    watch("models_in_service", "Models that answer", partial(_count, house))


def _count(house: House) -> int:
    return len(house.registry.live)


async def _poll(house: House, closing: asyncio.Event) -> None:
    while not closing.is_set():
        await asyncio.sleep(POLL_S)
        await _look(house)


async def _look(house: House) -> None:
    """Ask the database and Redis once. Nothing that goes wrong here may end the asking."""
    was_away = house.database.degraded
    try:
        await house.refresh()
        if was_away:
            house.log.info("database is back")
    except Unavailable as error:
        if not was_away:
            house.log.warning("database is away", reason=str(error))
    except Exception:
        house.log.error("refresh failed", exc_info=True)
    if house.redis is not None:
        with suppress(RecsysMetaError):
            await house.redis.ping()


async def _close(house: House) -> None:
    await house.ladder.close()
    await asyncio.to_thread(house.diagnoser.close)
    await asyncio.to_thread(house.writer.close, 5.0)
    if house.redis is not None:
        await house.redis.close()
    house.memory.close()
    await asyncio.to_thread(house.database.close)
