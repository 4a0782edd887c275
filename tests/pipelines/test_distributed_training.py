"""`torchrun -m pipelines train`: the run that one process would have made, recorded and written once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.experiments.training_processes import VARIABLES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WORDS = (
    *("train", "--recipe", "maml", "--dataset", "simulated-users", "--threads", "1", "--seed", "3"),
    *("--set", "train.epochs=3", "--set", "config.dims=8", "--set", "train.checkpoint_every=1"),
)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def launch(home: Path, *words: object) -> subprocess.Popen[str]:
    """Two processes of the command, as torchrun starts them."""
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES and not k.startswith("RECSYS_META_")}
    environment |= {"RECSYS_META_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*command, "-m", "pipelines", *map(str, words)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(launched: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = launched.communicate(timeout=280)
    return launched.returncode, out, err


@pytest.fixture(scope="module")
def alone(command):
    """The same run by one process."""
    return command.json(*WORDS)


def weights(result):
    (file,) = (Path(result["folder"]) / "bundle").rglob("model.safetensors")
    return load_file(file)


def assert_same_result(ours, theirs):
    assert ours["steps"] == theirs["steps"] and ours["valid"] == pytest.approx(theirs["valid"], abs=1e-4)
    expected = weights(theirs)
    for key, value in weights(ours).items():
        torch.testing.assert_close(value, expected[key], equal_nan=True, **CLOSE)


def test_two_processes_make_the_run_of_one_and_record_it_once(command, alone):
    before = {run["id"] for run in command.json("runs", "list")}
    code, out, err = finish(launch(command.home, *WORDS, "--json"))
    assert code == 0, err
    result = json.loads(out)
    assert_same_result(result, alone)
    (new,) = [run for run in command.json("runs", "list") if run["id"] not in before]
    assert new["id"] == result["run"] and new["status"] == "finished"
    points = [command.json("runs", "show", run["run"])["metrics"] for run in (result, alone)]
    ours, theirs = ([(p["key"], p["step"]) for p in found] for found in points)
    assert sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours)


def test_a_killed_process_leaves_a_checkpoint_that_one_process_resumes(command, alone):
    launched = launch(command.home, *WORDS)
    runs = command.home / "runs"
    known = set(runs.iterdir())
    deadline = time.monotonic() + 240
    while not (begun := [p for run in set(runs.iterdir()) - known for p in run.glob("checkpoints/00000003")]):
        assert time.monotonic() < deadline and launched.poll() is None, launched.communicate()
        time.sleep(0.01)
    os.kill(second_process(launched.pid), signal.SIGKILL)
    code, _, err = finish(launched)
    assert code != 0 and "another process of this run has ended" in err, err
    run = begun[0].parents[1].name
    assert command.json("runs", "show", run)["status"] in ("failed", "stopped")
    resumed = command.json("train", "--resume", run)
    assert resumed["resumed_at"] >= 3
    assert_same_result(resumed, alone)


def test_tables_that_two_processes_share_make_the_bundle_of_one(command):
    """Validated, saved, stopped early or not, calibrated and bundled with tables that neither of them has whole."""
    settings = ("train.most_steps=9", "train.validate_steps=3", "train.checkpoint_every=2", "train.tasks=2")
    settings += ("config.negatives=8", "episodes.max_shots=5", "episodes.max_query=5", "train.average=0.9")
    words = [*WORDS, *(word for s in (*settings, "train.shard_above=300") for word in ("--set", s))]
    code, out, err = finish(launch(command.home, *words, "--json"))
    assert code == 0, err
    assert err.count("sharded by hash of rows over 2 processes") == 1 and "item (" in err
    assert_same_result(json.loads(out), command.json(*words))


def second_process(launcher: int) -> int:
    """Process number 1 of those that a launcher has started."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and b"\0RANK=1\0" in b"\0" + (place / "environ").read_bytes():
                return int(place.name)
        except OSError:
            continue
    raise AssertionError("no second process")


def test_wrong_words_are_said_once_by_the_first_process(command):
    code, _, err = finish(launch(command.home, "train", "--recipe", "maml", "--dataset", "nothing-like-it"))
    assert code != 0 and err.count("is no prepared data set") == 1
