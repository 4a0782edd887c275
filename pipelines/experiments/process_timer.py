"""Timer of this process: seconds of the clock and of the processor; kept beside what took them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json

FILE = "time.json"
"""File of a run's folder with what its training took."""


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

    def save(self, folder: Path) -> None:
        """Write the times beside a run."""
        content = {"seconds": self.seconds, "processor_seconds": self.processor_seconds}
        write_file(folder / FILE, dump_json(content).encode())

    @classmethod
    def load(cls, folder: Path) -> ProcessTimer | None:
        """Read the times of a run; None where there is no such file, or a damaged one."""
        try:
            content = json.loads((folder / FILE).read_text(encoding="utf-8"))
            return cls(float(content["seconds"]), float(content["processor_seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
