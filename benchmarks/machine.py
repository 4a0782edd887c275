"""The machine that a benchmark ran on, as its JSON names it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any


def machine_facts(**more: Any) -> dict[str, Any]:
    """Return processor, cores, load over 1, 5 and 15 minutes, versions of Python and torch, and what is given."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "torch": version("torch"),  # not by its import: benchmarks of a database need none
        **more,
    }
