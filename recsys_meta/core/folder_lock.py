"""Lock of a folder: one process at a time works in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys_meta.core.errors import ConflictError


@contextmanager
def folder_lock(folder: Path, message: str) -> Iterator[None]:
    """Hold the lock of a folder, which exists, until the block ends or the process does, however it ends.

    Raises ConflictError with `message` where another process, or another thread of this one, holds it.
    """
    try:
        import fcntl
    except ImportError:  # a system without it: nothing keeps two processes apart there
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(message) from None
        yield
    finally:
        os.close(handle)
