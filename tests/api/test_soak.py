"""The soak of the benchmarks, short: that it runs, notices failures and growth, and that nothing fails."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from benchmarks.soak import WINDOWS, LoadWindow, soak, verdict
from tests.api.servers import Workers

SECONDS = float(os.environ.get("RECSYS_META_SOAK_S", "10"))


@pytest.mark.slow
def test_mixed_load_for_a_while(home: Path, light: str, own_redis) -> None:
    server = Workers(home, light, own_redis.url, workers=1, patient=True).start()
    try:
        windows = asyncio.run(soak(server.port, server.pid, SECONDS, rate=40))
    finally:
        server.stop()
    assert len(windows) == WINDOWS
    statuses = {status for w in windows for status in w.seen}
    assert statuses == {"200"}
    # So short a time shows a leak only if it is a flood.
    assert verdict(windows, growth=0.5)[0], verdict(windows, growth=0.5)[1]


def test_the_verdict() -> None:
    flat = [LoadWindow(100, 0, 5.0, 1000 + n) for n in range(WINDOWS)]
    assert verdict(flat, 0.05)[0]
    assert not verdict([*flat[:-1], LoadWindow(100, 1, 5.0, 1000)], 0.05)[0]
    assert not verdict([LoadWindow(100, 0, 5.0, 1000 + 50 * n) for n in range(WINDOWS)], 0.05)[0]
    # What caches take in the beginning is no leak.
    assert verdict([LoadWindow(100, 0, 5.0, 1000 + 300 * min(n, 3)) for n in range(WINDOWS)], 0.05)[0]
