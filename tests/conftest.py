"""Settings of all tests."""

import os
from collections.abc import Iterator

# Before torch is imported, as `pipelines.__main__` does: threads of OpenMP that wait actively take the cores from the
# other workers and from the servers that tests start (the test of quickstart took six times as long).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from hypothesis import settings

from pipelines.experiments.thread_count import fixed_threads

# Machines that share their cores are slow now and then: that is no failure of an example. Every run draws the same
# examples, so that one that fails fails for whoever made it fail; `--hypothesis-profile=fresh` draws others.
settings.register_profile("fresh", deadline=None)
settings.register_profile("recsys-meta", deadline=None, derandomize=True)
settings.load_profile("recsys-meta")


LONG = ("tests/pipelines/", "tests/training/")
"""Where tests train: their files go first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, then those that train: at the end of a parallel run all workers are busy with
    short files, and none waits for a long one (with --no-loadscope-reorder)."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, not item.nodeid.startswith(LONG)))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Products in one thread, as in a server: two threads share the rows of some in such a way that the last bits of a
    row depend on the others (seen with two of AVX-512, not with four)."""
    with fixed_threads(1):
        yield
