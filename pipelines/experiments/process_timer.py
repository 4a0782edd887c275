"""Timer of this process: seconds of the clock and of the processor."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self


class ProcessTimer:
    """Wall and processor time, in seconds, of the body of a `with`; that of all threads of this process.

    Or times that were taken elsewhere; `processor_seconds` None: not measured.
    """

    def __init__(self, seconds: float = 0.0, processor_seconds: float | None = None) -> None:
        self.seconds, self.processor_seconds = seconds, processor_seconds

    def __enter__(self) -> Self:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._began[0]
        self.processor_seconds = time.process_time() - self._began[1]
