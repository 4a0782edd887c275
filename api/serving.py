"""The ladder: a list from this process, a state from this process or from Redis, adapting in line, popularity.

A key names all that its value is derived from (model version, entity, support, request), so nothing is ever
invalidated. No step waits for SQL but the reading of an entity that changed since it was last read.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from api.profiles import Profiles
from api.registry import Served
from api.subjects import Subject
from recsys_meta.errors import RecsysMetaError
from recsys_meta.recommend import Known, Recommender, dump_state, load_state
from recsys_meta.store.cache import state_key
from recsys_meta.store.memory_cache import MemoryCache
from recsys_meta.store.redis_cache import RedisCache
from recsys_meta.types import State

Source = Literal["process", "redis", "miss"]

_MISS: Source = "miss"

PROCESS_S = 300.0
REDIS_S = 24 * 3600.0
_MOST_WRITES = 256  # writes to Redis under way at once; more are left out, and cost one adaptation each


@dataclass(frozen=True)
class Outcome:
    """Scores [C] of the catalogue, where the state came from, and how long working it out took."""

    scores: Tensor
    state: State | None
    source: Source
    ms: float

    @property
    def broken(self) -> bool:
        """Whether the model failed, and popularity stands in."""
        return self.state is None


class Ladder:
    """Finds or makes the state of a newcomer. `memory` holds states and lists of this process."""

    def __init__(self, memory: MemoryCache, redis: RedisCache | None, profiles: Profiles, log: Any) -> None:
        self.memory, self._redis, self._profiles, self._log = memory, redis, profiles, log
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="recsys-meta-adapt")
        self._writes: set[asyncio.Task[None]] = set()

    @property
    def writing(self) -> int:
        """States on their way to Redis."""
        return len(self._writes)

    async def climb(self, served: Served, known: Known, subject: Subject, *, fresh: bool = False) -> Outcome:
        """Scores for a newcomer; `fresh` adapts whatever is cached. Raises DataError for a wrong feature."""
        began = time.perf_counter()
        if served.sample is None:
            return Outcome(served.recommender.popular, None, "miss", 0.0)
        key = state_key(served.version, subject.kind, subject.entity or "", known.digest)
        raw, source = await self._find(key) if not fresh else (None, _MISS)
        state = None if raw is None else load_state(raw, served.sample)
        try:
            found = await self._work(served, known, state)
        except RecsysMetaError:
            raise
        except Exception:  # a model that fails is no reason to leave a newcomer without a list
            self._log.error("model failed", model=served.name, version=served.version, exc_info=True)
            found = None
        ms = 1000 * (time.perf_counter() - began)
        if found is None:
            return Outcome(served.recommender.popular, None, "miss", ms)
        made, scores = found
        if made is state and raw is not None:
            if source == "redis":
                self.memory.set(key, raw, PROCESS_S, subject.owner)
            return Outcome(scores, made, source, ms)
        self._keep(key, dump_state(made), subject)
        return Outcome(scores, made, "miss", ms)

    async def close(self) -> None:
        """Let writes under way end."""
        if self._writes:
            await asyncio.wait(self._writes, timeout=1.0)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _find(self, key: str) -> tuple[bytes | None, Source]:
        raw = self.memory.get(key)
        if raw is not None:
            return raw, "process"
        if self._redis is not None:
            raw = await self._redis.get(key)
        return raw, "redis" if raw is not None else "miss"

    async def _work(self, served: Served, known: Known, state: State | None) -> tuple[State, Tensor] | None:
        """The state and its scores, in line or in a thread as the model's pace says; None: not finite."""
        if not served.pace.slow:
            return _solve(served, known, state)
        return await asyncio.get_running_loop().run_in_executor(self._pool, _solve, served, known, state)

    def _keep(self, key: str, raw: bytes, subject: Subject) -> None:
        """Keep a state here at once, and in Redis when the answer has left."""
        self.memory.set(key, raw, PROCESS_S, subject.owner)
        if self._redis is None or len(self._writes) >= _MOST_WRITES:
            return
        task = asyncio.get_running_loop().create_task(self._send(self._redis, key, raw, subject))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _send(self, redis: RedisCache, key: str, raw: bytes, subject: Subject) -> None:
        # An entity erased meanwhile must not come back.
        if subject.entity is not None and not await self._profiles.current(subject.kind, subject.entity, subject.stamp):
            self.memory.delete([key])
            return
        await redis.set(key, raw, REDIS_S, subject.owner)


def _solve(served: Served, known: Known, state: State | None) -> tuple[State, Tensor] | None:
    """Adapt where there is no state, and rank. A cached state that does not fit is made anew."""
    began = time.perf_counter()
    recommender = served.recommender
    scores = None if state is None else _try_rank(recommender, state)
    if state is None or scores is None:
        state = recommender.adapt([known])
        scores = recommender.scores(state)[0]
    served.pace.note(1000 * (time.perf_counter() - began))
    return (state, scores) if bool(torch.isfinite(scores).all()) else None


def _try_rank(recommender: Recommender, state: State) -> Tensor | None:
    try:
        return recommender.scores(state)[0]
    except (RuntimeError, IndexError, KeyError):
        return None
