"""The database for an event loop: calls run in threads, bounded in time, behind a circuit breaker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from api.persistence.connection_watchdog import ConnectionWatchdog
from api.telemetry.logging import open_log
from recsys_meta.core.errors import ConflictError, DataError, RecsysMetaError, StoreError
from recsys_meta.store.cache.circuit_breaker import CircuitBreaker
from recsys_meta.store.database import engine as sql
from recsys_meta.store.database.database_errors import UNREACHABLE
from recsys_meta.store.database.engine import DEFAULT_OPTIONS, DatabaseOptions, StoreUnavailable

Result = TypeVar("Result")

READ_THREADS = 8
"""Threads for optional reads; one that hangs in a connection is free again after `READ_S`."""
CALL_THREADS = 4
"""Threads for all other calls, so that none of those delays a response."""
READ_S = 1.0
"""Time that a response waits for an optional read, seconds."""
REPORT_CALLS = 2
"""Reads over many rows at once: the other threads are left for calls that somebody's programs wait for."""
CALL_S = 15.0
"""Time that any other call may take, seconds; while the database is known to be unavailable, `READ_S`."""
UNAVAILABLE = UNREACHABLE


class AsyncDatabase:
    """Runs functions of a SQLAlchemy session in threads. Opens no connection until the first call.

    The circuit breaker is about reading: a database that is full or read-only refuses writes, each caller on its own,
    and is no less good for responses. `log_pending`: SQLite's write-ahead log still holds what was erased. Without
    a log it writes lines of the same form to one of its own.
    """

    def __init__(self, url: str, log: Any = None, options: DatabaseOptions = DEFAULT_OPTIONS) -> None:
        self._log = open_log()[0] if log is None else log
        self.engine = sql.connect(url, options)
        self.log_pending = False
        self.breaker = CircuitBreaker(failures=1, pause=0.5, max_pause=2.0)
        self._watchdog = ConnectionWatchdog(self.engine)
        self._reports = asyncio.Semaphore(REPORT_CALLS)
        self._read_pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="recsys-meta-read")
        self._call_pool = ThreadPoolExecutor(CALL_THREADS, thread_name_prefix="recsys-meta-sql")

    @property
    def degraded(self) -> bool:
        """Return whether the last call failed to reach the database."""
        return self.breaker.degraded

    async def try_read(self, work: Callable[[Session], Result]) -> Result:
        """Run an optional read, which a response can do without.

        Raises StoreUnavailable, at once while the breaker is open.
        """
        if not self.breaker.allow_request():
            raise StoreUnavailable(UNAVAILABLE)
        return await self._run_read(lambda: self._read_session(work))

    async def probe(self, work: Callable[[Session], Result]) -> Result:
        """Run an optional read even while the breaker is open, so that the database's return is noticed.

        Raises StoreUnavailable.
        """
        self._watchdog.cut_older(CALL_S)
        return await self._run_read(lambda: self._read_session(work))

    async def read(self, work: Callable[[Session], Result]) -> Result:
        """Run a read. Raises StoreUnavailable, and DataError for a value that the database refuses."""
        running = self._run(self._call_pool, lambda: self._read_session(work), CALL_S)
        return await self._translate_errors(self._update_breaker(running))

    async def read_report(self, work: Callable[[Session], Result]) -> Result:
        """Run a read over many rows: that it takes too long says nothing about the database, so that responses do not
        do without it then. Raises as `read` does."""
        async with self._reports:
            return await self._translate_errors(self._run(self._call_pool, lambda: self._read_session(work), CALL_S))

    async def write(self, work: Callable[[Session], Result]) -> Result:
        """Run a function in one transaction. Raises as `read` does; after a time-out it may still be committed."""
        return await self._translate_errors(self._run(self._call_pool, lambda: self._write_session(work), CALL_S))

    async def ping(self) -> None:
        """Check the connection. Raises StoreUnavailable."""
        await self._run_read(lambda: sql.ping(self.engine))

    async def truncate_wal(self, wait_s: float | None = None) -> bool:
        """Empty SQLite's write-ahead log, which holds what was erased; return whether that went. Raises as `write`.

        Where a reader kept it from that for `wait_s`, `log_pending` is true until a later call succeeds.
        """
        was_pending, self.log_pending = self.log_pending, True
        running = self._run(self._call_pool, lambda: sql.truncate_wal(self.engine, wait_s), CALL_S)
        self.log_pending = not await self._translate_errors(running)
        if self.log_pending and not was_pending:
            self._log.warning("a reader keeps the write-ahead log, which still holds what was erased")
        elif was_pending and not self.log_pending:
            self._log.info("the write-ahead log is empty")
        return not self.log_pending

    def close(self) -> None:
        """Release threads and connections, without waiting for a thread that hangs."""
        for pool in (self._read_pool, self._call_pool):
            pool.shutdown(wait=False, cancel_futures=True)
        self.engine.dispose()

    async def _run_read(self, call: Callable[[], Result]) -> Result:
        """Run an optional read; any failure but an error of the library's own means that the database is unavailable.

        A response that cannot be read is none: a peer that sends noise in the middle of a connection raises errors of
        any kind in the driver.
        """
        try:
            return await self._update_breaker(self._run(self._read_pool, call, READ_S))
        except StoreUnavailable:
            raise
        except Exception as error:
            if isinstance(error, RecsysMetaError) and not isinstance(error, StoreError):
                raise
            self._log.warning("the database gave an answer that cannot be read", exc_info=True)
            raise StoreUnavailable(UNAVAILABLE) from error

    async def _translate_errors(self, running: Awaitable[Result]) -> Result:
        """Raise errors whose messages may be shown to a client; the log gets the rest."""
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
            raise ConflictError(_without_driver_text(str(error), "the database refused a row")) from None
        except ValueError as error:
            raise DataError(_without_driver_text(str(error), "the database refused a value")) from None

    async def _update_breaker(self, running: Awaitable[Result]) -> Result:
        try:
            result = await running
        except StoreUnavailable:
            self.breaker.record_failure()
            raise
        self.breaker.record_success()
        return result

    async def _run(self, pool: ThreadPoolExecutor, call: Callable[[], Result], seconds: float) -> Result:
        """Run a call in a thread, for `seconds` at most. Raises StoreUnavailable.

        The connection of a call that hangs is cut, so that its thread is free again.
        """
        threads: list[int] = []  # the thread of the call while it runs

        def work() -> Result:
            threads.append(threading.get_ident())
            try:
                return call()
            finally:
                threads.clear()

        running = asyncio.get_running_loop().run_in_executor(pool, work)
        start = time.monotonic()
        while not await _ends_within(running, READ_S):
            if time.monotonic() - start > seconds - READ_S / 2 or self.degraded:
                running.cancel()  # where it is still queued
                for thread in threads:
                    self._watchdog.cut(thread)
                raise StoreUnavailable(f"the database did not answer within {time.monotonic() - start:.0f} s")
        try:
            return await running
        except StoreUnavailable as error:
            # The driver names hosts, ports and tables: those are for the log (see the cause), not for clients.
            public = error.public or UNAVAILABLE
            raise StoreUnavailable(public, public) from error

    def _read_session(self, work: Callable[[Session], Result]) -> Result:
        with sql.reading(self.engine) as session:
            return work(session)

    def _write_session(self, work: Callable[[Session], Result]) -> Result:
        with sql.session(self.engine) as session:
            return work(session)


def _without_driver_text(message: str, opening: str) -> str:
    """Cut a message to its opening where that is one of a driver's error: the driver repeats values and tables."""
    return opening if message.startswith(opening) else message


async def _ends_within(running: asyncio.Future[Any], seconds: float) -> bool:
    """Wait for a call, for `seconds` at most; one that is still queued when its caller is cancelled never starts."""
    try:
        return bool((await asyncio.wait((running,), timeout=seconds))[0])
    except asyncio.CancelledError:
        running.cancel()
        raise
