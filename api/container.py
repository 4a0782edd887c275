"""The container of what the routes share, opened when the server starts and closed when it stops."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sqlalchemy.orm import Session
from threadpoolctl import threadpool_limits

from api.http.api_keys import ApiKeyStore
from api.inference.alert_monitor import AlertMonitor
from api.inference.cache_writer import CacheWriter
from api.inference.item_refresher import ItemRefresher
from api.inference.long_tasks import LongTaskQueue
from api.inference.model_registry import ModelRegistry
from api.inference.outcome_worker import OutcomeWorker
from api.inference.registry_snapshot import RegistrySnapshot
from api.inference.state_resolver import StateResolver
from api.persistence.async_database import AsyncDatabase
from api.persistence.cursor_key import CursorKey
from api.persistence.day_summation import DaySummation
from api.persistence.profile_cache import ProfileCache
from api.telemetry.adaptation_diagnostics import DiagnosticsWorker
from api.telemetry.impression_log import ImpressionLog
from api.telemetry.metrics import ServerMetrics
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.inference.ranking.fresh_slots import FreshPolicy
from recsys_meta.store.access import api_keys as stored_keys
from recsys_meta.store.access.tables import ApiKeyRecord
from recsys_meta.store.background_writer import BackgroundWriter, database_sink
from recsys_meta.store.cache.circuit_breaker import CircuitBreaker
from recsys_meta.store.cache.memory_cache import MemoryCache
from recsys_meta.store.cache.redis_cache import RedisCache
from recsys_meta.store.config_entries import parse_fresh_policies
from recsys_meta.store.database import migrate
from recsys_meta.store.database.engine import StoreUnavailable
from recsys_meta.store.installation.installation_key import CURSORS, derived_key, installation_key
from recsys_meta.store.settings import Settings

POLL_S = 1.0
"""Interval at which a process polls the live versions, the API keys, and the database and Redis after outages,
seconds."""

REDIS_S: float | None = None
"""Time that a request waits for Redis instead of the one in the settings, seconds: tests set it."""

_WRITER_ROWS = 20_000  # a list is a row of `adaptations` and one of `impressions`

SWITCH_S = 0.0005
"""Time for which a thread may hold the interpreter's lock against the event loop, seconds; Python's default of 5 ms is
half of the latency's tail."""


@dataclass(frozen=True)
class AppContainer:
    """Connections, caches, models and background workers of one process. `prepared`: folder of prepared data sets;
    `fresh`: places for new items by the name of a model."""

    database: AsyncDatabase
    redis: RedisCache | None
    memory: MemoryCache
    profiles: ProfileCache
    registry: ModelRegistry
    items: ItemRefresher
    resolver: StateResolver
    cache_writer: CacheWriter
    long_tasks: LongTaskQueue
    previews: LongTaskQueue
    writer: BackgroundWriter
    diagnoser: DiagnosticsWorker
    impressions: ImpressionLog
    outcomes: OutcomeWorker
    alerts: AlertMonitor
    days: DaySummation
    metrics: ServerMetrics
    log: Any
    keys: ApiKeyStore
    snapshot: RegistrySnapshot
    prepared: Path
    fresh: Mapping[str, FreshPolicy]

    def degraded_dependencies(self, *, profile: bool = True, model: bool = True) -> list[str]:
        """Names of the dependencies that a response does without, counted in the metrics: database (also where
        `profile` is False: the entity's is unknown), redis, model."""
        missing = ["database"] if self.database.degraded or not profile else []
        missing += ["redis"] if self.redis is not None and self.redis.degraded else []
        missing += [] if model else ["model"]
        for name in missing:
            self.metrics.degraded_responses.labels(name).inc()
        return missing

    async def read_keys(self) -> None:
        """Read the API keys from the database. While it is away the last ones read are trusted, for a time."""
        try:
            key_rows, cursor_key = await self.database.probe(_read_keys)
            is_new = self.keys.replace_stored(key_rows)
        except StoreUnavailable as error:
            self.keys.outage_reason = str(error)
            return
        try:
            await asyncio.to_thread(self.profiles.cursor_key.replace, cursor_key)
            await asyncio.to_thread(self.keys.save, is_new)
        except OSError as error:
            self.log.warning("keys could not be noted", reason=type(error).__name__)

    async def refresh(self) -> None:
        """Take into service the versions that went live. Raises StoreUnavailable."""
        for model in await self.registry.refresh():
            self.metrics.model_swaps.labels(model.name).inc()
            sketch = model.recommender.sketch
            self.log.info(
                "model in service",
                model=model.name,
                version=model.version,
                ms=round(model.latency.ms, 3),
                sketch="none" if sketch is None else f"{sketch.directions} directions",
            )
        await self.snapshot.save(self.registry)


def _read_keys(session: Session) -> tuple[list[ApiKeyRecord], bytes]:
    return stored_keys.active_keys(session), derived_key(installation_key(session), CURSORS)


@asynccontextmanager
async def lifespan_container(
    settings: Settings, metrics: ServerMetrics, log: Any, keys: ApiKeyStore
) -> AsyncIterator[AppContainer]:
    """Open the container. The server starts without a database or Redis that is away; they are polled in the
    background."""
    # Requests run in parallel; threads within one operation would only compete with each other.
    torch.set_num_threads(1)
    threadpool_limits(1, "blas")  # NumPy's
    # Threads that write rows or diagnose adaptations give the interpreter's lock back soon.
    sys.setswitchinterval(SWITCH_S)
    container = _open(settings, metrics, log, keys)
    _register_gauges(container)
    if settings.database.startswith("sqlite"):
        # A file of this server. A PostgreSQL database may be shared: its owner runs `recsys-meta db upgrade`.
        with suppress(StoreUnavailable):
            await asyncio.to_thread(migrate.upgrade_database, settings.database)
    keys.restore()
    container.profiles.cursor_key.restore()
    with suppress(StoreUnavailable):
        await container.items.read()  # before the models, so that none lists what is hidden
    await asyncio.gather(container.read_keys(), _poll_once(container))
    if not container.registry.asked:
        await container.snapshot.restore(container.registry)
    closing = asyncio.Event()
    # Tasks of their own: loading a model may take long, and a revoked key must not be accepted meanwhile.
    polls = [asyncio.create_task(poll(container, closing)) for poll in (_poll_stores, _poll_keys, _poll_parent)]
    polls += [asyncio.create_task(part.run(closing)) for part in (container.items, container.alerts, container.days)]
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
    database = AsyncDatabase(settings.database, log, settings.database_options)
    redis = None
    if settings.redis is not None:
        breaker = CircuitBreaker(failures=2, pause=0.5, max_pause=2.0)
        redis = RedisCache(settings.redis, timeout=redis_timeout(settings), breaker=breaker)
    memory, profiles = MemoryCache(), ProfileCache(database, redis, CursorKey(settings.cursor_key_file))
    cache_writer = CacheWriter(memory, redis, profiles)
    models = settings.models.resolve()
    registry, rate = ModelRegistry(database, models, log, settings.sketch_from), settings.impression_rate
    writer = BackgroundWriter(database_sink(database.engine), capacity=_WRITER_ROWS, max_backoff=2.0)
    return AppContainer(
        database=database,
        redis=redis,
        memory=memory,
        profiles=profiles,
        registry=registry,
        items=ItemRefresher(database, registry, log),
        resolver=StateResolver(memory, redis, cache_writer, log),
        cache_writer=cache_writer,
        long_tasks=LongTaskQueue(),
        previews=LongTaskQueue(),  # what the playground shows at once does not wait for what takes long
        writer=writer,
        diagnoser=DiagnosticsWorker(writer, log, metrics),
        impressions=ImpressionLog(writer, rate),
        alerts=AlertMonitor(database, log),
        days=DaySummation(database, log),
        outcomes=OutcomeWorker(database.engine, registry, writer, log, settings.outcome_window_s, rate),
        metrics=metrics,
        log=log,
        keys=keys,
        snapshot=RegistrySnapshot(settings.home.resolve() / "live-models.json", models, log, settings.sketch_from),
        prepared=settings.prepared.resolve(),
        fresh=parse_fresh_policies(settings.fresh),
    )


def redis_timeout(settings: Settings) -> float:
    """Return how long a request waits for Redis, seconds; after two such waits the circuit breaker opens."""
    return settings.redis_timeout_s if REDIS_S is None else REDIS_S


def _register_gauges(container: AppContainer) -> None:
    add_gauge = container.metrics.add_gauge
    add_gauge("writer_waiting_rows", "Rows waiting for the database", lambda: container.writer.waiting)
    add_gauge("writer_dropped_rows", "Rows lost", lambda: container.writer.dropped)
    add_gauge("diagnoses_waiting", "Adaptations waiting for their figures", lambda: container.diagnoser.waiting)
    add_gauge("diagnoses_skipped", "Adaptations written without figures", lambda: container.diagnoser.skipped)
    add_gauge("outcomes_waiting", "Events whose outcome is not known yet", lambda: container.outcomes.waiting)
    add_gauge("outcomes_skipped", "Events left without an outcome", lambda: container.outcomes.skipped)
    add_gauge("alerts", "Versions in service that are worse than popularity", lambda: container.alerts.alerts, "max")
    add_gauge("redis_writes", "States on their way to Redis", lambda: container.cache_writer.pending)
    add_gauge("memory_cache_bytes", "Size of the cache in this process", lambda: container.memory.size)
    add_gauge("models_in_service", "Models that answer", lambda: len(container.registry.live), "min")
    add_gauge(
        "database_up", "Whether the database answered when last asked", lambda: not container.database.degraded, "min"
    )
    add_gauge("redis_up", "Whether Redis answered when last asked", partial(_redis_up, container), "min")
    add_gauge("keys_age_seconds", "Time since the keys of the database were read", lambda: container.keys.age, "max")
    add_gauge("resident_bytes", "Memory of the process", resident_bytes)


def _redis_up(container: AppContainer) -> bool:
    """True also where no Redis is configured: nothing is missing then."""
    return container.redis is None or not container.redis.degraded


def resident_bytes() -> int:
    """Resident memory of this process, bytes; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


async def _poll_stores(container: AppContainer, closing: asyncio.Event) -> None:
    while not closing.is_set():
        await asyncio.sleep(POLL_S)
        await _poll_once(container)


async def _poll_keys(container: AppContainer, closing: asyncio.Event) -> None:
    while not closing.is_set():
        await asyncio.sleep(POLL_S)
        try:
            await container.read_keys()
        except Exception:
            container.log.error("reading the keys failed", exc_info=True)


async def _poll_parent(container: AppContainer, closing: asyncio.Event) -> None:
    """Terminate once the parent process is gone: nothing else would stop this worker, and it would hold the port
    against a server that is started anew."""
    parent = multiprocessing.parent_process()
    while parent is not None and not closing.is_set():
        await asyncio.sleep(POLL_S)
        if not parent.is_alive():
            container.log.warning("the parent process is gone")
            os.kill(os.getpid(), signal.SIGTERM)
            return


async def _poll_once(container: AppContainer) -> None:
    """Poll the database and Redis once. No error may end the polling."""
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
    if container.database.log_pending:
        with suppress(RecsysMetaError):
            await container.database.truncate_wal(0.0)
    if container.redis is not None:
        with suppress(RecsysMetaError):
            await container.redis.ping()
        await container.profiles.flush_pending()
    container.metrics.write_gauges()


async def _close(container: AppContainer) -> None:
    await container.cache_writer.close()
    container.resolver.close()
    container.long_tasks.close()
    container.previews.close()
    await asyncio.to_thread(container.diagnoser.close)
    await asyncio.to_thread(container.outcomes.close)
    await asyncio.to_thread(container.writer.close, 5.0)
    if container.redis is not None:
        await container.redis.close()
    container.memory.close()
    await asyncio.to_thread(container.database.close)
