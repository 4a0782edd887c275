"""All that the routes share, opened when the server starts and closed when it stops."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from api.http.api_keys import ApiKeyStore
from api.inference.cache_writer import CacheWriter
from api.inference.long_tasks import LongTaskQueue
from api.inference.model_registry import ModelRegistry
from api.inference.registry_snapshot import RegistrySnapshot
from api.inference.state_resolver import StateResolver
from api.persistence.async_database import AsyncDatabase
from api.persistence.profile_cache import ProfileCache
from api.telemetry.adaptation_diagnostics import DiagnosticsWorker
from api.telemetry.metrics import ServerMetrics
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.store.access import api_keys as stored_keys
from recsys_meta.store.background_writer import BackgroundWriter, database_sink
from recsys_meta.store.cache.circuit_breaker import CircuitBreaker
from recsys_meta.store.cache.memory_cache import MemoryCache
from recsys_meta.store.cache.redis_cache import RedisCache
from recsys_meta.store.database import migrate
from recsys_meta.store.database.engine import StoreUnavailable
from recsys_meta.store.settings import Settings

POLL_S = 1.0
"""How often a process asks what went live, which keys there are, and whether what was away is back, seconds."""

REDIS_S = 0.25
"""How long an answer waits for Redis, seconds; after two such waits nobody waits for a while."""

SWITCH_S = 0.0005
"""How long a thread may keep the event loop from the interpreter, seconds; Python's own 5 ms are half a tail."""


@dataclass(frozen=True)
class AppContainer:
    """One process's share of the service."""

    database: AsyncDatabase
    redis: RedisCache | None
    memory: MemoryCache
    profiles: ProfileCache
    registry: ModelRegistry
    resolver: StateResolver
    cache_writer: CacheWriter
    long_tasks: LongTaskQueue
    writer: BackgroundWriter
    diagnoser: DiagnosticsWorker
    metrics: ServerMetrics
    log: Any
    keys: ApiKeyStore
    noted: RegistrySnapshot

    def degraded_dependencies(self, *, profile: bool = True, model: bool = True) -> list[str]:
        """What an answer had to do without: the database (or, False, the entity's profile), Redis, the model."""
        found = ["database"] if self.database.degraded or not profile else []
        found += ["redis"] if self.redis is not None and self.redis.degraded else []
        found += [] if model else ["model"]
        for name in found:
            self.metrics.degraded_responses.labels(name).inc()
        return found

    async def read_keys(self) -> None:
        """Ask the database which keys stand. While it is away those it told last are trusted, for a time."""
        try:
            changed = self.keys.replace_stored(await self.database.probe(stored_keys.active_keys))
        except StoreUnavailable as error:
            self.keys.outage_reason = str(error)
            return
        try:
            await asyncio.to_thread(self.keys.save, changed)
        except OSError as error:
            self.log.warning("keys could not be noted", reason=type(error).__name__)

    async def refresh(self) -> None:
        """Take into service what went live. Raises Unavailable."""
        for model in await self.registry.refresh():
            self.metrics.model_swaps.labels(model.name).inc()
            self.log.info("model in service", model=model.name, version=model.version, ms=round(model.latency.ms, 3))
        await self.noted.save(self.registry)


@asynccontextmanager
async def lifespan_container(
    settings: Settings, metrics: ServerMetrics, log: Any, keys: ApiKeyStore
) -> AsyncIterator[AppContainer]:
    """Open everything. What is away is waited for in the background: the server starts without it."""
    # Requests are served side by side; threads within one operation would only fight each other.
    torch.set_num_threads(1)
    # Whoever writes rows or works out figures beside the loop gives the interpreter's lock back soon.
    sys.setswitchinterval(SWITCH_S)
    container = _open(settings, metrics, log, keys)
    _watch(container)
    if settings.database.startswith("sqlite"):
        # Our own file. A PostgreSQL database may be shared: `recsys-meta db upgrade` is for its owner to run.
        with suppress(StoreUnavailable):
            await asyncio.to_thread(migrate.upgrade_database, settings.database)
    keys.restore()
    await asyncio.gather(container.read_keys(), _look(container))
    if not container.registry.asked:
        await container.noted.restore(container.registry)
    closing = asyncio.Event()
    # Polls of their own: loading a model may take long, and a revoked key must not open anything meanwhile.
    polls = [asyncio.create_task(poll(container, closing)) for poll in (_poll, _poll_keys, _poll_parent)]
    try:
        yield container
    finally:
        # Python 3.11's wait_for loses a cancellation that comes as its work ends: the polls must see the event too.
        closing.set()
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        await _close(container)


def _open(settings: Settings, metrics: ServerMetrics, log: Any, keys: ApiKeyStore) -> AppContainer:
    database = AsyncDatabase(settings.database, log)
    redis = None
    if settings.redis is not None:
        breaker = CircuitBreaker(failures=2, pause=0.5, max_pause=2.0)
        redis = RedisCache(settings.redis, timeout=REDIS_S, breaker=breaker)
    memory, profiles = MemoryCache(), ProfileCache(database, redis)
    cache_writer = CacheWriter(memory, redis, profiles)
    models = settings.models.resolve()
    writer = BackgroundWriter(database_sink(database.engine), max_backoff=2.0)
    return AppContainer(
        database=database,
        redis=redis,
        memory=memory,
        profiles=profiles,
        registry=ModelRegistry(database, models, log),
        resolver=StateResolver(memory, redis, cache_writer, log),
        cache_writer=cache_writer,
        long_tasks=LongTaskQueue(),
        writer=writer,
        diagnoser=DiagnosticsWorker(writer, log),
        metrics=metrics,
        log=log,
        keys=keys,
        noted=RegistrySnapshot(settings.home.resolve() / "live-models.json", models, log),
    )


def _watch(container: AppContainer) -> None:
    add_gauge = container.metrics.add_gauge
    add_gauge("writer_waiting_rows", "Rows waiting for the database", lambda: container.writer.waiting)
    add_gauge("writer_dropped_rows", "Rows lost", lambda: container.writer.dropped)
    add_gauge("diagnoses_waiting", "Adaptations waiting for their figures", lambda: container.diagnoser.waiting)
    add_gauge("diagnoses_skipped", "Adaptations written without figures", lambda: container.diagnoser.skipped)
    add_gauge("redis_writes", "States on their way to Redis", lambda: container.cache_writer.pending)
    add_gauge("memory_cache_bytes", "Size of the cache in this process", lambda: container.memory.size)
    add_gauge("models_in_service", "Models that answer", partial(_count, container), "min")
    add_gauge(
        "database_up", "Whether the database answered when last asked", lambda: not container.database.degraded, "min"
    )
    add_gauge("redis_up", "Whether Redis answered when last asked", partial(_redis_up, container), "min")
    add_gauge("keys_age_seconds", "Time since the keys of the database were read", lambda: container.keys.age, "max")
    add_gauge("resident_bytes", "Memory of the process", resident_bytes)


def _count(container: AppContainer) -> int:
    return len(container.registry.live)


def _redis_up(container: AppContainer) -> bool:
    """True also where none is set up: nothing is missing then."""
    return container.redis is None or not container.redis.degraded


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


async def _poll(container: AppContainer, closing: asyncio.Event) -> None:
    while not closing.is_set():
        await asyncio.sleep(POLL_S)
        await _look(container)


async def _poll_keys(container: AppContainer, closing: asyncio.Event) -> None:
    while not closing.is_set():
        await asyncio.sleep(POLL_S)
        try:
            await container.read_keys()
        except Exception:
            container.log.error("reading the keys failed", exc_info=True)


async def _poll_parent(container: AppContainer, closing: asyncio.Event) -> None:
    """End, as when told to, once the process that keeps the workers is gone: nobody else would stop this one, and it
    would hold the port against a server that starts afresh."""
    parent = multiprocessing.parent_process()
    while parent is not None and not closing.is_set():
        await asyncio.sleep(POLL_S)
        if not parent.is_alive():
            container.log.warning("the parent process is gone")
            os.kill(os.getpid(), signal.SIGTERM)
            return


async def _look(container: AppContainer) -> None:
    """Ask the database and Redis once. Nothing that goes wrong here may end the asking."""
    was_away = container.database.degraded
    try:
        await container.refresh()
        if was_away:
            container.log.info("database is back")
    except StoreUnavailable as error:
        if not was_away:
            container.log.warning("database is away", reason=str(error.__cause__ or error))
    except Exception:
        container.log.error("refresh failed", exc_info=True)
    if container.redis is not None:
        with suppress(RecsysMetaError):
            await container.redis.ping()
        await container.profiles.flush_pending()
    container.metrics.write_gauges()


async def _close(container: AppContainer) -> None:
    await container.cache_writer.close()
    container.resolver.close()
    container.long_tasks.close()
    await asyncio.to_thread(container.diagnoser.close)
    await asyncio.to_thread(container.writer.close, 5.0)
    if container.redis is not None:
        await container.redis.close()
    container.memory.close()
    await asyncio.to_thread(container.database.close)
