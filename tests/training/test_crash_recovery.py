"""Training is killed with SIGKILL at random instants: what it had saved is whole, and a resumed run ends the same.

RECSYS_META_KILLS says how many kills (12 unless told; 200 take about a minute).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from recsys_meta.training.checkpoint import last_checkpoint
from tests.training.kill_child import STEPS

KILLS = int(os.environ.get("RECSYS_META_KILLS", "12"))
ROOT = Path(__file__).parents[2]


class Nursery:
    """Starts children, each a process that trains; see `kill_child`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.kill_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def begin(self, folder: Path) -> int:
        """The process id of a child that has begun to train in the folder."""
        return self._ask(str(folder))

    def end(self) -> int:
        """How the child ended: its exit status, or -9 when it was killed. Waits for it."""
        return self._ask("wait")

    def _ask(self, line: str) -> int:
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def nursery():
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed(nursery, tmp_path_factory):
    """Weights at the end of a run that nobody kills, and how long it takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for name in ("warm", "timed"):
        began = time.monotonic()
        nursery.begin(folder / name)
        assert nursery.end() == 0
        taken = time.monotonic() - began
    finals = [(folder / name / "final.safetensors").read_bytes() for name in ("warm", "timed")]
    assert finals[0] == finals[1]
    return finals[0], taken


def kill_once(nursery, folder: Path, after: float) -> int:
    """Begin (or resume) a run and kill it after so many seconds; how it ended."""
    child = nursery.begin(folder)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)  # of a child that has ended nothing is left but its status
    return nursery.end()


def left_behind(folder: Path) -> str:
    """What a killed run left: nothing yet, checkpoints, or checkpoints and one half-written."""
    inside = [p.name for p in (folder / "checkpoints").glob("*")] if (folder / "checkpoints").is_dir() else []
    half = any(name.startswith(".") for name in inside)
    whole = any(not name.startswith(".") for name in inside)
    return ("checkpoints" if whole else "no checkpoint") + (", one half-written" if half else "")


@pytest.mark.timeout(1800)
@pytest.mark.slow
def test_a_run_killed_at_any_instant_resumes_to_the_same_weights(nursery, undisturbed, tmp_path):
    final, taken = undisturbed
    rng = random.Random(0)
    met, killed, resumed, began = Counter(), 0, 0, time.monotonic()
    for number in range(20 * KILLS):
        if killed >= KILLS:
            break
        folder = tmp_path / str(number)
        folder.mkdir()
        before = 0
        for _ in range(rng.choice((1, 1, 2, 3))):  # some runs are killed again after they resumed
            status = kill_once(nursery, folder, rng.random() * taken)
            if status != -signal.SIGKILL:
                assert status == 0
                break
            killed += 1
            met[left_behind(folder)] += 1
            found = last_checkpoint(folder)
            step = 0 if found is None else found.step
            assert before <= step <= STEPS, "a resumed run never falls back"
            met["a later step than the kill before"] += step > before
            before = step
        nursery.begin(folder)
        assert nursery.end() == 0
        resumed += 1
        assert (folder / "final.safetensors").read_bytes() == final
        assert last_checkpoint(folder).step == STEPS
    assert killed >= KILLS
    assert met["checkpoints"] + met["checkpoints, one half-written"] > 0
    print(
        f"\n{killed} kills, {resumed} resumed runs with the weights of the undisturbed one, in "
        f"{time.monotonic() - began:.1f} s (an undisturbed run takes {taken:.2f} s): {dict(met)}"
    )


@pytest.mark.slow
def test_a_process_of_its_own_from_the_start_does_the_same(undisturbed, tmp_path):
    """Without the nursery: a fresh interpreter, killed as soon as its third checkpoint is there, then run again."""
    command = [sys.executable, "-m", "tests.training.kill_child", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT) as child:
        while not (tmp_path / "checkpoints" / f"{3:08d}").is_dir():
            assert child.poll() is None
            time.sleep(0.001)
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert 3 <= last_checkpoint(tmp_path).step < STEPS
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    assert (tmp_path / "final.safetensors").read_bytes() == undisturbed[0]
