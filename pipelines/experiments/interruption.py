"""Ctrl-C and SIGTERM as a flag that a long job looks at between two steps."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ENDING: tuple[Any, ...] = (signal.SIG_DFL, signal.default_int_handler)
"""Handlers of a process that handles no signal: it ends."""


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag; a second one interrupts at once.

    A signal that the block did not look at is sent again when the block has ended, to whoever handled signals before:
    what was nearly finished has finished, and what would come next does not begin. Where the block ended by an error,
    only somebody who handles signals is told: the error ends a command anyway, and says more than the signal would.
    """
    requested: list[int] = []
    is_noticed = False

    def request(number: int, _: FrameType | None) -> None:
        nonlocal is_noticed
        if requested:
            is_noticed = True
            raise KeyboardInterrupt
        requested.append(number)

    def is_requested() -> bool:
        nonlocal is_noticed
        is_noticed = bool(requested)
        return is_noticed

    try:
        before = {int(s): signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: the caller owns the signals
        before = {}
    is_failed = True
    try:
        yield is_requested
        is_failed = False
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if requested and not is_noticed and not (is_failed and before[requested[0]] in _ENDING):
            signal.raise_signal(requested[0])
