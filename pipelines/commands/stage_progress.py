"""Stages of a long command: a note when one begins and, where nobody watches a bar, a line every few seconds."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from rich.markup import escape
from rich.progress import Progress

LINE_S = 5.0
"""Time after which a stage is said to go on, off a terminal, if nothing else was said; seconds."""


class StageProgress:
    """Notes of a command's stages, beside a progress bar.

    Within its context a thread says every few seconds what goes on and for how long, whatever the command computes:
    the whole of a fit is often one call. On a terminal the bar moves by itself and nothing is said.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage = ""
        self._began = self._printed = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._say_what_goes_on, daemon=True)

    def __enter__(self) -> Self:
        if not self._progress.console.is_terminal:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def note(self, text: str) -> None:
        """Print a note, with which a stage begins."""
        self._progress.console.print(f"[dim]{escape(text)}[/]", soft_wrap=True)
        self.follow(text)

    def follow(self, stage: str) -> None:
        """Begin a stage of which a line was printed, or need not be."""
        self._stage = stage
        self._began = self._printed = time.monotonic()

    def _say_what_goes_on(self) -> None:
        while not self._ended.wait(min(LINE_S, 0.5)):
            now = time.monotonic()
            if self._stage and now - self._printed >= LINE_S:
                self._printed = now
                line = f"{self._stage}: {now - self._began:,.0f} s"
                self._progress.console.print(f"[dim]{escape(line)}[/]", soft_wrap=True)
