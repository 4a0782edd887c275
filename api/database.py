"""The database for an event loop: every call in a thread of its own pool, bounded in time, behind a breaker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy.orm import Session

from api.problems import Problem
from recsys_meta.store import engine as sql
from recsys_meta.store.breaker import Breaker
from recsys_meta.store.engine import Unavailable

Result = TypeVar("Result")

THREADS = 4
READ_S = 2.0  # how long an answer waits for a read that it can do without, seconds
CALL_S = 15.0  # how long any other call may take, seconds


class Database:
    """Runs functions of a session. Opens nothing until first asked."""

    def __init__(self, url: str) -> None:
        self.engine = sql.connect(url)
        self.breaker = Breaker(failures=1, pause=0.5, longest=2.0)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="recsys-meta-sql")

    @property
    def degraded(self) -> bool:
        """Whether the database could not be reached when last asked."""
        return self.breaker.degraded

    async def glance(self, work: Callable[[Session], Result]) -> Result:
        """Read for an answer that can do without. Raises Unavailable at once while the database is away."""
        if not self.breaker.allows():
            raise Unavailable("the database cannot be reached")
        return await self._run(lambda: self._reading(work), READ_S)

    async def probe(self, work: Callable[[Session], Result]) -> Result:
        """The same, but asks even while the database was away a moment ago: how its return is noticed."""
        return await self._run(lambda: self._reading(work), READ_S)

    async def read(self, work: Callable[[Session], Result]) -> Result:
        """Read. Raises Unavailable, and Problem 422 for a value that the store refuses."""
        return await self._checked(lambda: self._reading(work))

    async def write(self, work: Callable[[Session], Result]) -> Result:
        """Do something in one transaction. Raises as `read` does; what timed out may still have happened."""
        return await self._checked(lambda: self._writing(work))

    async def ping(self) -> None:
        """Ask for an answer. Raises Unavailable."""
        await self._run(lambda: sql.ping(self.engine), READ_S)

    def close(self) -> None:
        """Let go of threads and connections; what hangs in a thread is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.engine.dispose()

    async def _checked(self, call: Callable[[], Result]) -> Result:
        try:
            return await self._run(call, CALL_S)
        except ValueError as error:
            raise Problem(422, str(error)) from None

    async def _run(self, call: Callable[[], Result], seconds: float) -> Result:
        try:
            result = await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(self._pool, call), seconds)
        except TimeoutError:
            self.breaker.failed()
            raise Unavailable(f"the database did not answer within {seconds:g} s") from None
        except Unavailable:
            self.breaker.failed()
            raise
        self.breaker.succeeded()
        return result

    def _reading(self, work: Callable[[Session], Result]) -> Result:
        with sql.reading(self.engine) as session:
            return work(session)

    def _writing(self, work: Callable[[Session], Result]) -> Result:
        with sql.session(self.engine) as session:
            return work(session)
