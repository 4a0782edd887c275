"""Computations that are too long for the event loop and may keep a client waiting: explanations, questions to ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

_MAX_TASKS = 8  # at once, running or waiting
_MAX_WAIT_S = 5.0  # time after which a task that has not begun is dropped, seconds


class WorkerBusy(Exception):
    """Raised where too many long tasks wait already, or a task waited too long."""


class LongTaskQueue:
    """One thread that runs long tasks one after another; a thread of its own, so that adaptations do not wait."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="recsys-meta-long")
        self._tasks = 0

    async def run(self, work: Callable[..., Result], *arguments: Any, max_wait: float = _MAX_WAIT_S) -> Result:
        """Run `work` in the thread. Raises WorkerBusy where too many tasks wait, or it has not begun within `max_wait`
        seconds."""
        if self._tasks >= _MAX_TASKS:
            raise WorkerBusy
        deadline = time.monotonic() + max_wait

        def begin() -> Result:
            if time.monotonic() > deadline:
                raise WorkerBusy
            return work(*arguments)

        self._tasks += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, begin)
        finally:
            self._tasks -= 1

    def close(self) -> None:
        """Cancel the tasks that have not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)
