"""Resolution of a state: a list of this process, a state of this process or Redis, adapting in line, or popularity.

A key names all that its value is derived from (model version, entity, support, request), so nothing is ever
invalidated. No step waits for SQL except the reading of an entity that changed since it was last read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from api.http.problem_details import ProblemError
from api.inference.cache_writer import MEMORY_TTL_S, REDIS_TTL_S, CacheWriter
from api.inference.entity_context import EntityContext
from api.inference.micro_batcher import STATE_MISMATCH, BatchResult, MicroBatcher
from api.inference.model_registry import LoadedModel
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.core.types import State
from recsys_meta.inference.ranking.list_builder import TopKRequest
from recsys_meta.inference.ranking.topk import TopK
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity
from recsys_meta.inference.state_codec import load_state
from recsys_meta.store.cache.keys import state_key
from recsys_meta.store.cache.memory_cache import MemoryCache
from recsys_meta.store.cache.redis_cache import RedisCache

Source = Literal["process", "redis", "miss"]
"""Where a state or a list was found; miss: nowhere, it was computed."""

ScoreFunction = Callable[[Recommender, State], Tensor]
"""Scores of one state, [C] of a catalogue or [R] of some rows."""

SharedState = asyncio.Future[bytes | None]
"""A serialized state that Redis was asked for; None where it has none."""

_GROUP = 16  # requests of `resolve_all` that the event loop serves before it looks at others


@dataclass(frozen=True)
class StateRequest:
    """A request for an entity's state and for scores computed from it.

    `score`: the scores; None: those of the model's whole catalogue, and with them the list `top_k`, where given.
    `best_only`: only the best items matter, others may be scored roughly. `digest`: that of an older support, whose
    state is asked for. `adapt_anew`: ignore cached states.
    """

    model: LoadedModel
    entity: EncodedEntity
    entity_context: EntityContext
    score: ScoreFunction | None = None
    top_k: TopKRequest | None = None
    best_only: bool = False
    digest: str | None = None
    adapt_anew: bool = False

    @cached_property
    def key(self) -> str:
        """The state's key in the caches."""
        context = self.entity_context
        return state_key(self.model.version, context.kind, context.entity or "", self.digest or self.entity.digest)

    @property
    def batchable(self) -> bool:
        """True where the request may share a batch: scores of the whole catalogue, by a model whose numbers do not
        depend on the batch."""
        return self.score is None and self.model.recommender.batch_invariant

    @property
    def of_older_support(self) -> bool:
        """True where the state asked for is not that of the entity's present support."""
        return self.digest is not None and self.digest != self.entity.digest


class StateResolution(NamedTuple):
    """The result of a request (None: the model failed, and `popular` scores stand in), where its state came from, and
    the time that took, milliseconds."""

    result: BatchResult | None
    source: Source
    ms: float
    popular: Tensor | None = None

    @property
    def scores(self) -> Tensor:
        """The scores asked for, or those by popularity."""
        scores = self.popular if self.result is None else self.result.scores
        assert scores is not None
        return scores

    @property
    def state(self) -> State | None:
        """The entity's state, T = 1; None where the model failed."""
        return None if self.result is None else self.result.state

    @property
    def model_failed(self) -> bool:
        """True where scores by popularity stand in for the model's."""
        return self.result is None

    @property
    def top_k(self) -> TopK | None:
        """The list asked for, where it was computed with the batch."""
        return None if self.result is None else self.result.top_k


class StateResolver:
    """Finds or computes states of entities: caches, then the micro-batcher or a computation of its own."""

    def __init__(self, memory: MemoryCache, redis: RedisCache | None, writer: CacheWriter, log: Any) -> None:
        self._memory, self._redis, self._writer, self._log = memory, redis, writer, log
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="recsys-meta-adapt")
        self._batcher = MicroBatcher(self._pool)
        self._in_flight: dict[str, asyncio.Future[None]] = {}

    def held_list(self, key: str) -> bytes | None:
        """Find a whole list that this process has. Looked up before events are read: such a list needs no reading."""
        return self._memory.get(key)

    async def shared_list(self, key: str, request: StateRequest) -> tuple[bytes | None, SharedState | None]:
        """Find a whole list that another process computed; the state that it would be computed from is asked for in the
        same exchange, and is the second value where this process has none: pass it on to `resolve`."""
        if self._redis is None:
            return None, None
        state_key = request.key
        is_state_needed = (
            request.model.sample is not None
            and state_key not in self._in_flight
            and self._memory.get(state_key) is None
        )
        with self._batcher.announce():
            list_future = self._redis.request(key)
            state = self._redis.request(state_key) if is_state_needed else None
            items = await list_future
        if items is not None:
            self._memory.set(key, items, MEMORY_TTL_S, request.entity_context.owner)
        return items, state

    async def resolve(self, request: StateRequest, state_future: SharedState | None = None) -> StateResolution:
        """Find or compute a state and the scores asked for; by popularity where the model fails. `state_future`:
        the state of Redis, where that was asked already.

        Equal requests of the same time wait for the first one's state. Raises DataError for a wrong feature, and
        Problem 409 for the state of an older support that is gone.
        """
        began = time.perf_counter()
        if request.model.sample is None:
            return StateResolution(None, "miss", 0.0, request.model.recommender.catalog.fallback_scores(request.entity))
        if request.adapt_anew:
            return await self._resolve_from(request, None, "process", began)
        key = request.key
        cached_state = self._memory.get(key)
        if cached_state is None and (flight := self._in_flight.get(key)) is not None:
            # Once that request has its state, the state is in the memory, whatever Redis does.
            await asyncio.wait((flight,))
            cached_state = self._memory.get(key)
            return await self._resolve_from(request, cached_state, "process", began)
        if cached_state is not None:
            return await self._resolve_from(request, cached_state, "process", began)
        flight = self._in_flight[key] = asyncio.get_running_loop().create_future()
        try:
            cached_state = await self._read_redis(key, state_future)
            return await self._resolve_from(request, cached_state, "redis", began)
        finally:
            del self._in_flight[key]
            flight.set_result(None)

    async def resolve_all(self, requests: Sequence[StateRequest]) -> list[StateResolution]:
        """Resolve several requests, in their order."""
        resolutions: list[StateResolution] = []
        for start in range(0, len(requests), _GROUP):
            group = requests[start : start + _GROUP]
            resolutions += await asyncio.gather(*(self.resolve(request) for request in group))
            await asyncio.sleep(0)  # other requests wait for the loop
        return resolutions

    def close(self) -> None:
        """Cancel computations that have not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _read_redis(self, key: str, state_future: SharedState | None) -> bytes | None:
        if self._redis is None:
            return None
        if state_future is not None and state_future.done():
            return state_future.result()
        with self._batcher.announce():
            return await (self._redis.request(key) if state_future is None else state_future)

    async def _resolve_from(
        self, request: StateRequest, cached_state: bytes | None, source: Source, began: float
    ) -> StateResolution:
        """Resolve with the serialized state of a cache, or None where no cache has one."""
        state = None if cached_state is None else load_state(cached_state, request.model.sample)
        if state is None and request.of_older_support:
            raise list_expired()
        result = await self._compute(request, state)
        ms = 1000 * (time.perf_counter() - began)
        if result is None:
            return StateResolution(None, "miss", ms, request.model.recommender.catalog.fallback_scores(request.entity))
        if result.state_bytes is None:
            if cached_state is not None and source == "redis":
                self._memory.set(request.key, cached_state, MEMORY_TTL_S, request.entity_context.owner)
            return StateResolution(result, source, ms)
        if request.of_older_support:  # its cached state did not fit the model, so the present support was adapted to
            raise list_expired()
        self._writer.put(request.key, result.state_bytes, request.entity_context, REDIS_TTL_S)
        return StateResolution(result, "miss", ms)

    async def _compute(self, request: StateRequest, state: State | None) -> BatchResult | None:
        """Compute scores, and the state where there is none: in a batch, in line, or in a thread where the model is
        slow. None where the model fails."""
        model = request.model
        try:
            if request.batchable:
                return await self._batcher.adapt_and_score(
                    model, request.entity, state, request.top_k, request.best_only
                )
            if not model.latency.slow:
                return _compute_alone(request, state)
            return await asyncio.get_running_loop().run_in_executor(self._pool, _compute_alone, request, state)
        except RecsysMetaError:
            raise
        except Exception:  # a model that fails is no reason to answer without a list
            self._log.error("model failed", model=model.name, version=model.version, exc_info=True)
            return None


def list_expired() -> ProblemError:
    """The problem of a page whose list no cache holds any more."""
    return ProblemError(
        409, "The newcomer's events have changed and the list of this cursor is gone; ask for the first page"
    )


def _compute_alone(request: StateRequest, state: State | None) -> BatchResult | None:
    """Adapt where there is no state, and score. A cached state that does not fit the model is replaced by adapting.
    None where the scores are not finite."""
    began = time.thread_time()  # CPU time of this thread: that of other threads is not the model's
    recommender, state_bytes = request.model.recommender, None
    score = request.score or partial(_score_best if request.best_only else _score_all, request.entity)
    scores = None if state is None else _score_cached(recommender, state, score)
    if state is None or scores is None:
        state, (state_bytes,) = recommender.adapt_and_serialize([request.entity])
        scores = score(recommender, state)
    request.model.latency.record(1000 * (time.thread_time() - began))
    if not bool(torch.isfinite(scores).all()):
        return None
    return BatchResult(state, scores[None], state_bytes=state_bytes)


def _score_best(entity: EncodedEntity, recommender: Recommender, state: State) -> Tensor:
    return recommender.best_scores(state, [entity])[0]


def _score_all(entity: EncodedEntity, recommender: Recommender, state: State) -> Tensor:
    return recommender.score_catalog(state, None, entity)


def _score_cached(recommender: Recommender, state: State, score: ScoreFunction) -> Tensor | None:
    """Scores of a cached state; None where it does not fit the model."""
    try:
        return score(recommender, state)
    except STATE_MISMATCH:
        return None
