"""Adapting in company: those who ask a model in the same turn of the event loop are adapted and ranked in one go.

For sixteen it takes a third of what one after another takes. Nobody waits for company: who asks alone is answered in
the next turn. Only models that give everybody the same numbers in any company are asked so (`Recommender.together`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from api.served import SLOW_MS, Served
from recsys_meta.recommend import Known
from recsys_meta.types import State

MISFITS = (RuntimeError, IndexError, KeyError)
"""What a model raises for a state of another form."""

MOST = 16
"""Newcomers that are worked out in one go, at most."""


@dataclass(frozen=True)
class Solved:
    """The state of a newcomer, as bytes where it was adapted just now, and the scores of its catalogue [C]."""

    state: State
    fresh: bytes | None
    scores: Tensor


Found = Solved | Exception | None


@dataclass(frozen=True, eq=False)
class _Asking:
    known: Known
    state: State | None
    answer: asyncio.Future[Solved | None]

    @property
    def form(self) -> Hashable:
        """What those have in common who may be worked out together: nobody is padded for another's sake."""
        if self.state is None:
            return len(self.known.items)
        return tuple((name, *leaf.shape) for name, leaf in self.state.items())


class Company:
    """Who waits to be worked out, by model. A slow one works in a thread of a pool, for one party at a time."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._asking: dict[int, list[_Asking]] = {}
        self._working: set[int] = set()  # models whose next turn is settled

    async def solve(self, served: Served, known: Known, state: State | None) -> Solved | None:
        """Adapt a newcomer, unless it has a state, and rank for it. A state that does not fit is made anew. None where
        the scores are not finite. Raises what the model raises."""
        try:
            return await self._solve(served, known, state)
        except MISFITS:
            if state is None:
                raise
            return await self._solve(served, known, None)

    async def _solve(self, served: Served, known: Known, state: State | None) -> Solved | None:
        asking = _Asking(known, state, asyncio.get_running_loop().create_future())
        self._asking.setdefault(id(served), []).append(asking)
        if id(served) not in self._working:
            self._next(served)
        return await asking.answer

    def _next(self, served: Served) -> None:
        """Work in the next turn of the loop, if somebody waits."""
        if id(served) in self._asking:
            self._working.add(id(served))
            asyncio.get_running_loop().call_soon(self._work, served)
        else:
            self._working.discard(id(served))

    def _work(self, served: Served) -> None:
        """Work out the first who wait and are alike, and leave the others to the next turn."""
        alike: dict[Hashable, list[_Asking]] = {}
        for one in self._asking.pop(id(served)):
            alike.setdefault(one.form, []).append(one)
        first, *others = alike.values()
        # In line, a party may take no longer than one newcomer may.
        most = MOST if served.pace.slow else max(1, min(MOST, int(SLOW_MS / max(served.pace.ms, 0.01))))
        chosen, left = first[:most], [*first[most:], *(one for group in others for one in group)]
        if left:
            self._asking[id(served)] = left
        if served.pace.slow:
            work = asyncio.get_running_loop().run_in_executor(self._pool, _found, served, chosen)
            work.add_done_callback(lambda done: self._worked(served, chosen, done))
        else:
            _give(chosen, _found(served, chosen))
            self._next(served)

    def _worked(self, served: Served, asking: Sequence[_Asking], done: asyncio.Future[list[Found]]) -> None:
        self._next(served)
        if done.cancelled():  # the server stops
            for one in asking:
                one.answer.cancel()
        else:
            _give(asking, done.result())


def _found(served: Served, asking: Sequence[_Asking]) -> list[Found]:
    try:
        return list(solve_all(served, [one.known for one in asking], [one.state for one in asking]))
    except Exception as error:
        if len(asking) == 1:
            return [error]
        return [found for one in asking for found in _found(served, [one])]  # one may have spoilt it for all


def _give(asking: Sequence[_Asking], found: Sequence[Found]) -> None:
    for one, solved in zip(asking, found, strict=True):
        if one.answer.done():  # its caller may have gone away
            continue
        if isinstance(solved, Exception):
            one.answer.set_exception(solved)
        else:
            one.answer.set_result(solved)


def solve_all(served: Served, knowns: Sequence[Known], states: Sequence[State | None]) -> list[Solved | None]:
    """The same for several who are alike: all with a state of the same form, or none."""
    began = time.thread_time()  # of other threads' work this one is not to blame
    recommender = served.recommender
    kept = [state for state in states if state is not None]
    fresh: Sequence[bytes | None] = [None] * len(knowns)
    if kept:
        state = {name: torch.cat([one[name] for one in kept]) for name in kept[0]} if len(kept) > 1 else kept[0]
    else:
        state, fresh = recommender.settle(knowns)
    scores = recommender.scores(state)
    # A sum is finite where all of its parts are, and costs a tenth of looking at each.
    finite = [math.isfinite(total) for total in scores.sum(1).tolist()]
    served.pace.note(1000 * (time.thread_time() - began) / len(knowns))
    return [
        Solved({name: leaf[i : i + 1] for name, leaf in state.items()}, fresh[i], scores[i]) if finite[i] else None
        for i in range(len(knowns))
    ]
