"""`train --engine ray`: the run of one process, also where a worker is killed on the way; nothing is left behind.

Ray is an extra: where it is not installed, all but the first tests skip.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.experiments.ray_training import RayWorkers
from recsys_meta.core.errors import ConfigError
from tests.pipelines.conftest import Command

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'recsys-meta[ray]'")
ROOT = Path(__file__).parents[2]
WORDS = (
    *("train", "--recipe", "maml", "--dataset", "simulated-users", "--threads", "1", "--seed", "3"),
    *("--set", "train.epochs=3", "--set", "config.dims=8", "--set", "train.checkpoint_every=1"),
)


def test_numbers_of_workers():
    assert RayWorkers.parse("4", 0) == RayWorkers(4, 4, 0)
    assert RayWorkers.parse("2:8", 5) == RayWorkers(2, 8, 5)
    for text in ("", "0", "3:2", "two", "1:2:3", "-1"):
        with pytest.raises(ConfigError, match="--workers"):
            RayWorkers.parse(text, 0)


def test_without_ray_it_says_what_to_install(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'recsys-meta[ray]'" in command(*WORDS, "--engine", "ray", code=2)
    assert "only --engine ray has workers" in command(*WORDS, "--workers", "2", code=2)


def launch(home: Path, folder: Path) -> subprocess.Popen[bytes]:
    """The command with two workers; what it says goes to files, since what is left of Ray would hold a pipe open."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RECSYS_META_", "RAY_"))}
    environment |= {"RECSYS_META_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pipelines", *WORDS, "--engine", "ray", "--workers", "2", "--json"]
    with (folder / "out.json").open("wb") as out, (folder / "err.txt").open("wb") as err:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err)


def training_workers(home: Path) -> list[int]:
    """Processes of Ray that train in this home."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            name = (place / "cmdline").read_bytes()
            if b"RayTrainWorker" in name and f"RECSYS_META_HOME={home}".encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
        except OSError:
            continue
    return found


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_a_killed_worker_is_replaced_and_the_run_is_that_of_one_process(tmp_path):
    command = Command(tmp_path / "home")
    command("data", "prepare", "simulated-users")
    alone = command.json(*WORDS)
    child, runs, before = launch(command.home, tmp_path), command.home / "runs", {Path(alone["folder"])}
    deadline = time.monotonic() + 600
    while not [p for run in set(runs.glob("[0-9]*")) - before for p in run.glob("checkpoints/00000003")]:
        assert child.poll() is None and time.monotonic() < deadline, (tmp_path / "err.txt").read_text()[-3000:]
        time.sleep(0.02)
    os.kill(max(training_workers(command.home)), signal.SIGKILL)
    assert child.wait(600) == 0, (tmp_path / "err.txt").read_text()[-3000:]
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["steps"] == alone["steps"] and result["resumed_at"] >= 3
    assert command.json("runs", "show", result["run"])["status"] == "finished"
    (ours,), (theirs,) = ((Path(r["folder"]) / "bundle").rglob("model.safetensors") for r in (result, alone))
    expected = load_file(theirs)
    for key, value in load_file(ours).items():
        torch.testing.assert_close(value, expected[key], equal_nan=True, rtol=1e-4, atol=1e-5)
    assert {path.name for path in runs.iterdir()} == {alone["run"], result["run"]}
