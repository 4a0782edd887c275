"""Number of threads of a run: fixed, so that sums have one order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


def default_threads(processes: int = 1) -> int:
    """Number of threads of each of some processes on a machine: two where it has them, as a step of these models is too
    small to occupy more."""
    return max(1, min(2, (os.cpu_count() or 1) // processes))


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Fix the number of threads of torch and BLAS: sums have the same order, so that a resume is bit-exact."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
