"""The database for an event loop: every call in a thread of its own pool, bounded in time, behind a breaker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from api.http.problem_details import ProblemError
from api.persistence.connection_watchdog import ConnectionWatchdog
from api.telemetry.logging import open_log
from recsys_meta.core.errors import ConflictError, RecsysMetaError, StoreError
from recsys_meta.store.cache.circuit_breaker import CircuitBreaker
from recsys_meta.store.database import engine as sql
from recsys_meta.store.database.engine import StoreUnavailable

Result = TypeVar("Result")

READ_THREADS = 8  # threads for what answers can do without; those that hang in a connection are free after its time-out
CALL_THREADS = 4  # threads for all else, so that it keeps no answer waiting
READ_S = 1.0  # how long an answer waits for a read that it can do without, seconds
CALL_S = 15.0  # how long any other call may take, seconds; once the database is known to be away READ_S
UNAVAILABLE = "the database cannot be reached"
OUTDATED_SCHEMA = "the database is not ready; run `recsys-meta db upgrade`"


class AsyncDatabase:
    """Runs functions of a session. Opens nothing until first asked.

    The breaker is about reading: a database that is full or read-only refuses what is written, each caller by itself,
    and is no less good for answers. Without a log it writes lines of the same form to one of its own.
    """

    def __init__(self, url: str, log: Any = None) -> None:
        self._log = open_log()[0] if log is None else log
        self.engine = sql.connect(url)
        self.breaker = CircuitBreaker(failures=1, pause=0.5, max_pause=2.0)
        self._lines = ConnectionWatchdog(self.engine)
        self._glances = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="recsys-meta-glance")
        self._calls = ThreadPoolExecutor(CALL_THREADS, thread_name_prefix="recsys-meta-sql")

    @property
    def degraded(self) -> bool:
        """Whether the database could not be reached when last asked."""
        return self.breaker.degraded

    async def try_read(self, work: Callable[[Session], Result]) -> Result:
        """Read for an answer that can do without. Raises Unavailable at once while the database is away."""
        if not self.breaker.allows():
            raise StoreUnavailable(UNAVAILABLE)
        return await self._look(lambda: self._reading(work))

    async def probe(self, work: Callable[[Session], Result]) -> Result:
        """The same, but asks even while the database was away a moment ago: how its return is noticed."""
        self._lines.cut_older(CALL_S)
        return await self._look(lambda: self._reading(work))

    async def read(self, work: Callable[[Session], Result]) -> Result:
        """Read. Raises Unavailable, and Problem 422 for a value that the store refuses."""
        return await self._checked(self._noting(self._run(self._calls, lambda: self._reading(work), CALL_S)))

    async def write(self, work: Callable[[Session], Result]) -> Result:
        """Do something in one transaction. Raises as `read` does; what timed out may still have happened."""
        return await self._checked(self._run(self._calls, lambda: self._writing(work), CALL_S))

    async def ping(self) -> None:
        """Ask for an answer. Raises Unavailable."""
        await self._look(lambda: sql.ping(self.engine))

    def close(self) -> None:
        """Let go of threads and connections; what hangs in a thread is not waited for."""
        for pool in (self._glances, self._calls):
            pool.shutdown(wait=False, cancel_futures=True)
        self.engine.dispose()

    async def _look(self, call: Callable[[], Result]) -> Result:
        return await self._sensible(self._noting(self._run(self._glances, call, READ_S)))

    async def _checked(self, running: Awaitable[Result]) -> Result:
        try:
            return await running
        except StoreUnavailable:
            raise
        except UnicodeDecodeError as error:
            raise StoreUnavailable(UNAVAILABLE) from error
        except StoreError as error:
            self._log.error("the database failed", exc_info=True)
            raise StoreError("the database failed; the server's log has the reason") from error
        except ConflictError as error:
            raise ConflictError(_told(str(error), "the database refused a row")) from None
        except ValueError as error:
            raise ProblemError(422, _told(str(error), "the database refused a value")) from None

    async def _sensible(self, running: Awaitable[Result]) -> Result:
        """An answer that cannot be read is none: who babbles in the middle of a connection is as good as away."""
        try:
            return await running
        except StoreUnavailable:
            raise
        except Exception as error:
            if isinstance(error, RecsysMetaError) and not isinstance(error, StoreError):
                raise
            self._log.warning("the database gave an answer that cannot be read", exc_info=True)
            raise StoreUnavailable(UNAVAILABLE) from error

    async def _noting(self, running: Awaitable[Result]) -> Result:
        """Tell the breaker how it went."""
        try:
            result = await running
        except StoreUnavailable:
            self.breaker.record_failure()
            raise
        self.breaker.record_success()
        return result

    async def _run(self, pool: ThreadPoolExecutor, call: Callable[[], Result], seconds: float) -> Result:
        """Do something in a thread. Raises Unavailable; what hangs is cut off, so that the thread is free again."""
        threads: list[int] = []

        def work() -> Result:
            threads.append(threading.get_ident())
            try:
                return call()
            finally:
                threads.clear()

        running = asyncio.get_running_loop().run_in_executor(pool, work)
        began = time.monotonic()
        while not await _ended(running, READ_S):
            if time.monotonic() - began > seconds - READ_S / 2 or self.degraded:
                running.cancel()  # where it has not begun
                for thread in threads:
                    self._lines.cut(thread)
                raise StoreUnavailable(f"the database did not answer within {time.monotonic() - began:.0f} s")
        try:
            return await running
        except StoreUnavailable as error:
            # The driver names hosts, ports and tables: that is for our log (see the cause), not for callers.
            raise StoreUnavailable(OUTDATED_SCHEMA if "db upgrade" in str(error) else UNAVAILABLE) from error

    def _reading(self, work: Callable[[Session], Result]) -> Result:
        with sql.reading(self.engine) as session:
            return work(session)

    def _writing(self, work: Callable[[Session], Result]) -> Result:
        with sql.session(self.engine) as session:
            return work(session)


def _told(text: str, beginning: str) -> str:
    """What may be told of an error: our own words, and where the database spoke only that it did."""
    return beginning if text.startswith(beginning) else text


async def _ended(running: asyncio.Future[Any], seconds: float) -> bool:
    """Whether it ends in time. What has not begun when its caller goes away never will."""
    try:
        return bool((await asyncio.wait((running,), timeout=seconds))[0])
    except asyncio.CancelledError:
        running.cancel()
        raise
