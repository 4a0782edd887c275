"""Adapting in company: those who ask a model at about the same time are adapted and ranked in one go.

For sixteen it takes a third of what one after another takes, and a fifth with what a server does in between. A party
waits for those who are on their way, for two milliseconds; who asks while nobody else does is answered in the next turn
of the loop. Only models that give everybody the same numbers in any company are asked so (`Recommender.together`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from api.inference.loaded_model import LoadedModel
from recsys_meta.core.types import State
from recsys_meta.inference.ranking.topk import Best
from recsys_meta.inference.recommender import EncodedEntity, Recommender, TopKRequest

MISFITS = (RuntimeError, IndexError, KeyError)
"""What a model raises for a state of another form."""

PATIENCE_S = 0.002
"""How long a party waits for who is on the way, seconds: about what it costs to be two parties."""


class BatchResult(NamedTuple):
    """What was found for one of several: the states and the scores [T, C] of all, its place among them, its own state
    as bytes where it was adapted just now, and the best of its scores where they were wished for."""

    states: State
    all_scores: Tensor
    place: int = 0
    fresh: bytes | None = None
    best: Best | None = None

    # Cut out only where somebody asks for them: few do, and it takes as long as ranking.

    @property
    def state(self) -> State:
        """Its own state, T = 1."""
        return {name: leaf[self.place : self.place + 1] for name, leaf in self.states.items()}

    @property
    def scores(self) -> Tensor:
        """Its own scores [C]."""
        return self.all_scores[self.place]


Found = BatchResult | Exception | None


class _PendingRequest(NamedTuple):
    known: EncodedEntity
    state: State | None
    wish: TopKRequest | None
    answer: asyncio.Future[BatchResult | None]
    since: float

    @property
    def form(self) -> Hashable:
        """What those have in common who may be worked out together: nobody is padded for another's sake."""
        if self.state is None:
            return len(self.known.items)
        return tuple((name, *leaf.shape) for name, leaf in self.state.items())


class MicroBatcher:
    """Who waits to be worked out, by model. A slow one works in a thread of a pool, for one party at a time."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._asking: dict[int, list[_PendingRequest]] = {}
        self._settled: set[int] = set()  # models whose next turn is settled
        self._waiting: dict[int, tuple[LoadedModel, asyncio.TimerHandle]] = {}  # those that wait for others until then
        self._coming = 0

    @contextmanager
    def announce(self) -> Iterator[None]:
        """Somebody is on the way, who may ask, and asks soon."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            if not self._coming:
                self._hurry()

    async def solve(
        self, model: LoadedModel, known: EncodedEntity, state: State | None, wish: TopKRequest | None = None
    ) -> BatchResult | None:
        """Adapt a newcomer, unless it has a state, and rank for it. A state that does not fit is made anew. None where
        the scores are not finite. Raises what the model raises."""
        try:
            return await self._solve(model, known, state, wish)
        except MISFITS:
            if state is None:
                raise
            return await self._solve(model, known, None, wish)

    async def _solve(
        self, model: LoadedModel, known: EncodedEntity, state: State | None, wish: TopKRequest | None
    ) -> BatchResult | None:
        loop = asyncio.get_running_loop()
        asking = _PendingRequest(known, state, wish, loop.create_future(), loop.time())
        party = self._asking.setdefault(id(model), [])
        party.append(asking)
        if id(model) not in self._settled:
            self._next(model)
        elif len(party) == model.pace.most:
            self._hurry()
        return await asking.answer

    def _hurry(self) -> None:
        """Let no party wait any longer."""
        waiting, self._waiting = self._waiting, {}
        for model, timer in waiting.values():
            timer.cancel()
            self._next(model)

    def _next(self, model: LoadedModel) -> None:
        """Work in the next turn of the loop, if somebody waits."""
        if id(model) in self._asking:
            self._settled.add(id(model))
            asyncio.get_running_loop().call_soon(self._work, model)
        else:
            self._settled.discard(id(model))

    def _waits(self, model: LoadedModel, asking: Sequence[_PendingRequest]) -> float:
        """For how long a party may still wait for others, seconds."""
        if not self._coming or len(asking) >= model.pace.most:
            return 0.0
        return asking[0].since + PATIENCE_S - asyncio.get_running_loop().time()

    def _work(self, model: LoadedModel) -> None:
        """Work out the first who wait and are alike, and leave the others to the next turn."""
        self._waiting.pop(id(model), None)
        if (waits := self._waits(model, self._asking[id(model)])) > 0:
            self._waiting[id(model)] = model, asyncio.get_running_loop().call_later(waits, self._work, model)
            return
        alike: dict[Hashable, list[_PendingRequest]] = {}
        for one in self._asking.pop(id(model)):
            alike.setdefault(one.form, []).append(one)
        first, *others = alike.values()
        most = model.pace.most
        chosen, left = first[:most], [*first[most:], *(one for group in others for one in group)]
        if left:
            self._asking[id(model)] = left
        if model.pace.slow:
            work = asyncio.get_running_loop().run_in_executor(self._pool, _found, model, chosen)
            work.add_done_callback(lambda done: self._worked(model, chosen, done))
        else:
            _give(chosen, _found(model, chosen))
            self._next(model)

    def _worked(self, model: LoadedModel, asking: Sequence[_PendingRequest], done: asyncio.Future[list[Found]]) -> None:
        self._next(model)
        if done.cancelled():  # the server stops
            for one in asking:
                one.answer.cancel()
        else:
            _give(asking, done.result())


def _found(model: LoadedModel, asking: Sequence[_PendingRequest]) -> list[Found]:
    try:
        return list(solve_all(model, asking))
    except Exception as error:
        if len(asking) == 1:
            return [error]
        return [found for one in asking for found in _found(model, [one])]  # one may have spoilt it for all


def _give(asking: Sequence[_PendingRequest], found: Sequence[Found]) -> None:
    for one, solved in zip(asking, found, strict=True):
        if one.answer.done():  # its caller may have gone away
            continue
        if isinstance(solved, Exception):
            one.answer.set_exception(solved)
        else:
            one.answer.set_result(solved)


def solve_all(model: LoadedModel, asking: Sequence[_PendingRequest]) -> list[BatchResult | None]:
    """The same for several who are alike: all with a state of the same form, or none."""
    began = time.thread_time()  # of other threads' work this one is not to blame
    recommender = model.recommender
    kept = [one.state for one in asking if one.state is not None]
    fresh: Sequence[bytes | None] = [None] * len(asking)
    if kept:
        state = {name: torch.cat([one[name] for one in kept]) for name in kept[0]} if len(kept) > 1 else kept[0]
    else:
        state, fresh = recommender.adapt_and_serialize([one.known for one in asking])
    scores = recommender.scores(state)
    # A sum is finite where all of its parts are, and costs a tenth of looking at each.
    finite = [math.isfinite(total) for total in scores.sum(1).tolist()]
    best = _bests(recommender, scores, [one.wish if ok else None for one, ok in zip(asking, finite, strict=True)])
    model.pace.record(1000 * (time.thread_time() - began), len(asking))
    return [BatchResult(state, scores, i, fresh[i], best.get(i)) if finite[i] else None for i in range(len(asking))]


def _bests(recommender: Recommender, scores: Tensor, wishes: Sequence[TopKRequest | None]) -> dict[int, Best]:
    """The best for each who wished for them, by place."""
    wished = {i: wish for i, wish in enumerate(wishes) if wish is not None}
    if not wished:
        return {}
    rows = scores if len(wished) == len(scores) else scores[list(wished)]
    return dict(zip(wished, recommender.top_k_ids(rows, list(wished.values())), strict=True))
