"""Check of the directory that a data set is prepared in."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from recsys_meta.core.atomic_io import REPLACED_PREFIX, TEMPORARY_PREFIX
from recsys_meta.core.errors import DataError

STALE_SECONDS = 24 * 3600
"""Age in seconds from which on a temporary directory is taken for that of a killed process."""


def reserve_output(out: Path) -> None:
    """Check that `out` may be written, and remove temporary directories of killed preparations beside it.

    Raises DataError if `out` holds anything but a prepared data set.
    """
    if out.exists() and not (out / "dataset.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        problem = "exists and is not a prepared data set, so it is left as it is"
        raise DataError(problem, file=out, remedy="Choose another directory")
    for path in out.parent.iterdir() if out.parent.is_dir() else ():
        leftover = path.name.startswith((f"{TEMPORARY_PREFIX}{out.name}-", f"{REPLACED_PREFIX}{out.name}-"))
        # Younger ones may belong to a process that is still running.
        if leftover and time.time() - path.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
