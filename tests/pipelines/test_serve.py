"""`recsys-meta serve` as processes: what cannot be read is said once, and no worker outlives the one that keeps it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.fixtures.services import free_port, wait

pytestmark = pytest.mark.slow


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RECSYS_META_", "PROMETHEUS_"))}
    return {**kept, "RECSYS_META_HOME": str(home), "COLUMNS": "300", "OMP_NUM_THREADS": "1", **more}


def words(port: int) -> list[str]:
    return [sys.executable, "-m", "pipelines", "serve", "--port", str(port), "--workers", "2"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RECSYS_META_RATE_LIMIT", "abc", "must be like 1000/second"),
        ("RECSYS_META_RATE_LIMIT", "0/second", "must be like 1000/second"),
        ("RECSYS_META_API_KEYS", "one,two-secret:reed", "entry 2 must be KEY or KEY:SCOPES"),
        ("RECSYS_META_REDIS_URL", "nonsense", "redis://"),
    ],
)
def test_what_cannot_be_read_is_said_once_before_any_worker_starts(tmp_path, name, value, said):
    made = subprocess.run(
        words(free_port()),
        env=environment(tmp_path, **{name: value}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = made.stdout + made.stderr
    assert made.returncode == 1
    assert name in told and said in told
    assert len(told.strip().splitlines()) == 1, told
    assert "two-secret" not in told


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(p) for p in text.split() if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.slow
@contextmanager
def started(home: Path, port: int):
    log = home / "log"
    with log.open("ab") as out:
        process = subprocess.Popen(words(port), env=environment(home), stdout=out, stderr=out, start_new_session=True)
    try:
        wait(lambda: answers(port) or process.poll() is not None, 120)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            if any(runs(pid) for pid in children(process.pid)) or process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_workers_end_with_their_parent_and_leave_the_port_to_the_next(tmp_path):
    port = free_port()
    with started(tmp_path, port) as process:
        workers = children(process.pid)
        assert len(workers) == 2
        wait(lambda: len(list(tmp_path.glob("metrics-*/gauge_livesum_*.db"))) == 2, 120)  # both serve
        os.kill(process.pid, signal.SIGKILL)
        process.wait(20)
        try:
            wait(lambda: not any(map(runs, workers)), 60)
        finally:
            for pid in filter(runs, workers):
                os.kill(pid, signal.SIGKILL)
    said = (tmp_path / "log").read_text()
    assert said.count("the parent process is gone") == 2
    assert "Traceback" not in said
    with started(tmp_path, port):
        assert answers(port)


def test_a_server_bounds_headers(tmp_path):
    port = free_port()
    with started(tmp_path, port), socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
        caller.sendall(b"GET /livez HTTP/1.1\r\nx: " + b"a" * 70_000)
        assert caller.recv(65536).startswith(b"HTTP/1.1 431 ")
