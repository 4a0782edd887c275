"""Resolution of a state: a list of this process, a state of this process or Redis, adapting in line, or popularity.

A key names all that its value is derived from (model version, entity, support, request), so nothing is ever
invalidated. No step waits for SQL but the reading of an entity that changed since it was last read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from api.http.problem_details import ProblemError
from api.inference.entity_context import EntityContext
from api.inference.micro_batcher import MISFITS, BatchResult, MicroBatcher
from api.inference.model_registry import LoadedModel
from api.persistence.profile_cache import ProfileCache
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.core.types import State
from recsys_meta.inference.ranking.topk import Best
from recsys_meta.inference.recommender import EncodedEntity, Recommender, TopKRequest, load_state
from recsys_meta.store.cache.keys import state_key
from recsys_meta.store.cache.memory_cache import MemoryCache
from recsys_meta.store.cache.redis_cache import RedisCache
from recsys_meta.store.database.engine import StoreUnavailable

Source = Literal["process", "redis", "miss"]
Ask = Callable[[Recommender, State], Tensor]
"""What is asked of a state: scores [C] of the catalogue, or [R] of some rows."""

Result = TypeVar("Result")

PROCESS_S = 300.0
REDIS_S = 24 * 3600.0
_TOGETHER = 16  # newcomers that the event loop serves before it looks at other requests
_MOST_WAITING = 8  # long pieces of work at once, under way or waiting
_LONGEST_WAIT_S = 5.0  # how long one waits for its turn before it is left undone, seconds
_MOST_WRITES = 512  # writes to Redis under way at once; more are left out, and cost one adaptation each
_GATHER_S = 0.005  # how long a write waits for company

_Unsent = tuple[str, bytes, EntityContext, float]


class StateResolution(NamedTuple):
    """What was found, where the state came from, and how long that took; where the model failed, `popular` scores."""

    solved: BatchResult | None
    source: Source
    ms: float
    popular: Tensor | None = None

    @property
    def scores(self) -> Tensor:
        """What was asked for, or the scores that stand in for it."""
        scores = self.popular if self.solved is None else self.solved.scores
        assert scores is not None
        return scores

    @property
    def state(self) -> State | None:
        """The newcomer's state; None where the model failed."""
        return None if self.solved is None else self.solved.state

    @property
    def broken(self) -> bool:
        """Whether the model failed, and popularity stands in."""
        return self.solved is None

    @property
    def best(self) -> Best | None:
        """The list that was wished for, where it could be found along the way."""
        return None if self.solved is None else self.solved.best


class WorkerBusy(Exception):
    """Too many wait for something long already."""


class StateResolver:
    """Finds or makes the state of a newcomer. `memory` holds states and lists of this process."""

    def __init__(self, memory: MemoryCache, redis: RedisCache | None, profiles: ProfileCache, log: Any) -> None:
        self.memory, self._redis, self._profiles, self._log = memory, redis, profiles, log
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="recsys-meta-adapt")
        # Explanations must not keep adaptations waiting.
        self._long, self._waiting = ThreadPoolExecutor(1, thread_name_prefix="recsys-meta-long"), 0
        self._unsent: list[_Unsent] = []
        self._sending: list[_Unsent] = []
        self._sender: asyncio.Task[None] | None = None
        self._company = MicroBatcher(self._pool)
        self._flights: dict[str, asyncio.Future[None]] = {}

    @property
    def writing(self) -> int:
        """States and lists on their way to Redis."""
        return len(self._unsent) + len(self._sending)

    async def cached_list(self, key: str, entity_context: EntityContext) -> tuple[bytes, Source] | None:
        """A whole list that this process or another made. Asked for before the events are read: what is there needs
        no reading."""
        made = self.memory.get(key)
        if made is not None:
            return made, "process"
        if self._redis is None:
            return None
        with self._company.announce():
            made = await self._redis.get(key)
        if made is None:
            return None
        self.memory.set(key, made, PROCESS_S, entity_context.owner)
        return made, "redis"

    async def resolve(
        self,
        model: LoadedModel,
        known: EncodedEntity,
        entity_context: EntityContext,
        *,
        fresh: bool = False,
        ask: Ask = Recommender.score_catalog,
        digest: str | None = None,
        wish: TopKRequest | None = None,
    ) -> StateResolution:
        """What is asked of a newcomer's state, the scores of its catalogue where left out.

        `fresh` adapts whatever is cached; `digest` wants the state of an older support; `wish` says what list is to be
        made of the scores. Where the model fails the
        scores are by popularity. Raises DataError for a wrong feature, Problem 409 for a state that is gone.
        """
        began = time.perf_counter()
        if model.sample is None:
            return StateResolution(None, "miss", 0.0, model.recommender.fallback(known))
        key = state_key(model.version, entity_context.kind, entity_context.entity or "", digest or known.digest)
        if fresh or (raw := self.memory.get(key)) is not None:
            raw = None if fresh else raw
            return await self._climb(model, known, entity_context, ask, digest, wish, key, began, raw, "process")
        if (ahead := self._flights.get(key)) is not None:
            # Somebody finds or makes the same state already. Once it has, it is in the memory, whatever Redis does.
            await asyncio.wait((ahead,))
            raw = self.memory.get(key)
            return await self._climb(model, known, entity_context, ask, digest, wish, key, began, raw, "process")
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            raw = None
            if self._redis is not None:
                with self._company.announce():
                    raw = await self._redis.get(key)
            return await self._climb(model, known, entity_context, ask, digest, wish, key, began, raw, "redis")
        finally:
            del self._flights[key]
            flight.set_result(None)

    async def _climb(
        self,
        model: LoadedModel,
        known: EncodedEntity,
        entity_context: EntityContext,
        ask: Ask,
        digest: str | None,
        wish: TopKRequest | None,
        key: str,
        began: float,
        raw: bytes | None,
        source: Source,
    ) -> StateResolution:
        """The rest of the way with the bytes that were found of the state, if any."""
        state = None if raw is None else load_state(raw, model.sample)
        if state is None and digest not in (None, known.digest):
            raise list_expired()
        found = await self._work(model, known, state, ask, wish)
        ms = 1000 * (time.perf_counter() - began)
        if found is None:
            return StateResolution(None, "miss", ms, model.recommender.fallback(known))
        if found.fresh is None:
            if raw is not None and source == "redis":
                self.memory.set(key, raw, PROCESS_S, entity_context.owner)
            return StateResolution(found, source, ms)
        if digest not in (None, known.digest):
            raise list_expired()
        self.store(key, found.fresh, entity_context, REDIS_S)
        return StateResolution(found, "miss", ms)

    async def resolve_all(
        self, model: LoadedModel, asked: Sequence[tuple[EncodedEntity, EntityContext]], ask: Ask
    ) -> list[StateResolution]:
        """The same for several newcomers at once."""
        found: list[StateResolution] = []
        for start in range(0, len(asked), _TOGETHER):
            part = asked[start : start + _TOGETHER]
            found += await asyncio.gather(*(self.resolve(model, k, s, ask=ask) for k, s in part))
            await asyncio.sleep(0)  # others wait for the loop
        return found

    async def run(self, work: Callable[..., Result], *given: Any, patience: float = _LONGEST_WAIT_S) -> Result:
        """Do something long, one after another, in a thread. Raises Busy where many wait for that already, or its turn
        comes too late."""
        if self._waiting >= _MOST_WAITING:
            raise WorkerBusy
        latest = time.monotonic() + patience

        def begun() -> Result:
            if time.monotonic() > latest:
                raise WorkerBusy
            return work(*given)

        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._long, begun)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Let writes under way end."""
        if self._sender is not None:
            await asyncio.wait((self._sender,), timeout=1.0)
        for pool in (self._pool, self._long):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _work(
        self, model: LoadedModel, known: EncodedEntity, state: State | None, ask: Ask, wish: TopKRequest | None
    ) -> BatchResult | None:
        """The state and its scores, in line or in a thread as the model's pace says; None: it failed."""
        try:
            if ask is Recommender.score_catalog and model.recommender.batch_invariant:
                return await self._company.solve(model, known, state, wish)
            if not model.pace.slow:
                return _solve(model, known, state, ask)
            return await asyncio.get_running_loop().run_in_executor(self._pool, _solve, model, known, state, ask)
        except RecsysMetaError:
            raise
        except Exception:  # a model that fails is no reason to leave a newcomer without a list
            self._log.error("model failed", model=model.name, version=model.version, exc_info=True)
            return None

    def store(self, key: str, raw: bytes, entity_context: EntityContext, seconds: float) -> None:
        """Keep a state or a list here at once, and in Redis for so long when the answer has left."""
        self.memory.set(key, raw, PROCESS_S, entity_context.owner)
        if self._redis is None or self.writing >= _MOST_WRITES:
            return
        self._unsent.append((key, raw, entity_context, seconds))
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send(self._redis))

    async def _send(self, redis: RedisCache) -> None:
        """Send what waits until nothing does: many in one exchange, which costs about as much as one."""
        try:
            while self._unsent:
                await asyncio.sleep(_GATHER_S)
                self._sending, self._unsent = self._unsent, []
                await redis.set_all([(key, raw, seconds) for key, raw, _, seconds in self._sending])
                # What belongs to an entity that was erased meanwhile must not come back. Asked once it is written: so
                # an erasure by any process either finds it or is seen.
                stands = await asyncio.gather(
                    *(self._stands(entity_context) for _, _, entity_context, _ in self._sending)
                )
                old = [one[0] for one, stood in zip(self._sending, stands, strict=True) if not stood]
                self.memory.delete(old)
                with suppress(StoreUnavailable):
                    await redis.delete(old)
        finally:
            self._sending, self._sender = [], None

    async def _stands(self, entity_context: EntityContext) -> bool:
        entity = entity_context.entity
        return entity is None or await self._profiles.is_current(entity_context.kind, entity, entity_context.profile)


def list_expired() -> ProblemError:
    """A page was asked for of a list that nobody holds any more."""
    return ProblemError(
        409, "The newcomer's events have changed and the list of this cursor is gone; ask for the first page"
    )


def _solve(model: LoadedModel, known: EncodedEntity, state: State | None, ask: Ask) -> BatchResult | None:
    """Adapt where there is no state, and ask. A cached state that does not fit is made anew; None: not finite."""
    began = time.thread_time()  # of other threads' work this one is not to blame
    recommender, fresh = model.recommender, None
    scores = None if state is None else _try(recommender, state, ask)
    if state is None or scores is None:
        state, (fresh,) = recommender.adapt_and_serialize([known])
        scores = ask(recommender, state)
    model.pace.record(1000 * (time.thread_time() - began))
    return BatchResult(state, scores[None], fresh=fresh) if bool(torch.isfinite(scores).all()) else None


def _try(recommender: Recommender, state: State, ask: Ask) -> Tensor | None:
    try:
        return ask(recommender, state)
    except MISFITS:
        return None
