"""Several processes that train one run: real ones, which end with the weights of a single one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.experiments.training_processes import VARIABLES, training_group
from recsys_meta.core.errors import ConfigError
from recsys_meta.training.checkpoint import last_checkpoint
from recsys_meta.training.training_group import TrainingGroup

ROOT = Path(__file__).parents[2]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class GroupNursery:
    """Starts groups of processes that train; see `group_child`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.group_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def train(self, folder: Path, processes: int, kill_at: int = 0, shard_above: int = 0) -> list[int]:
        """How each of so many processes ended: its exit status, or -9 when it was killed."""
        self._process.stdin.write(f"{folder} {processes} {kill_at} {shard_above}\n")
        self._process.stdin.flush()
        return [int(code) for code in self._process.stdout.readline().split()]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def nursery():
    made = GroupNursery()
    yield made
    made.close()


@pytest.fixture(scope="module")
def alone(nursery, tmp_path_factory):
    """State at the end of a run of a single process."""
    folder = tmp_path_factory.mktemp("alone")
    assert nursery.train(folder, 1) == [0]
    return load_file(folder / "final.safetensors")


@pytest.fixture(scope="module")
def alone_on_rankings(nursery, tmp_path_factory):
    """The same of the run whose tables several processes share."""
    folder = tmp_path_factory.mktemp("rankings")
    assert nursery.train(folder, 1, shard_above=800) == [0]
    return load_file(folder / "final.safetensors")


def assert_same_run(folder, expected, since=0):
    """Weights and moments up to rounding; the order of tasks and the random numbers bit for bit."""
    final = load_file(folder / "final.safetensors")
    assert final.keys() == expected.keys()
    for key, value in expected.items():
        if key == "generator" or (key.startswith("sampler/") and not value.is_floating_point()):
            assert torch.equal(final[key], value), key
        elif key == "losses":
            torch.testing.assert_close(final[key], value[since:], **CLOSE)
        else:
            torch.testing.assert_close(final[key], value, equal_nan=True, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_end_with_the_weights_of_one(nursery, alone, tmp_path, processes):
    assert nursery.train(tmp_path, processes) == [0] * processes
    assert_same_run(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
def test_a_killed_process_ends_the_run_and_another_number_of_processes_resumes_it(nursery, alone, tmp_path, processes):
    assert nursery.train(tmp_path, 2, kill_at=5) == [1, -signal.SIGKILL]
    said = (tmp_path / "error-0.txt").read_text()
    assert "another process of this run has ended" in said and "resume it with any number of processes" in said
    assert last_checkpoint(tmp_path).step == 5
    assert nursery.train(tmp_path, processes) == [0] * processes
    assert_same_run(tmp_path, alone, since=5)


@pytest.mark.slow
def test_processes_that_share_tables_end_with_the_weights_of_one(nursery, alone_on_rankings, tmp_path):
    """Each has some of the rows and of their moments, and none twice; small tables are whole in both."""
    assert nursery.train(tmp_path, 2, shard_above=800) == [0, 0]
    assert_same_run(tmp_path, alone_on_rankings)
    held = [json.loads((tmp_path / f"held-{rank}.json").read_text()) for rank in range(2)]
    for name in ("values", "exp_avg", "exp_avg_sq"):
        numbers = [each[name] for each in held]
        assert sum(numbers) == 402 * 4 and max(numbers) < 0.6 * 402 * 4
    assert [each["said"] for each in held] == ["item (402 x 4): sharded by hash of rows over 2 processes"] * 2


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_another_number_of_processes_resumes_a_run_with_shared_tables(
    nursery, alone_on_rankings, tmp_path, first, then
):
    assert nursery.train(tmp_path, first, kill_at=7, shard_above=800)[-1] == -signal.SIGKILL
    stop = last_checkpoint(tmp_path)
    behind = stop.tensors["rows/item/updated"]
    assert stop.step == 7 and len(behind) == 402 and len(behind.unique()) > 1, "some rows are to be brought up to date"
    assert nursery.train(tmp_path, then, shard_above=800) == [0] * then
    assert_same_run(tmp_path, alone_on_rankings, since=7)


def test_a_group_of_more_processes_than_tasks_ends_before_the_first_step(nursery, tmp_path):
    assert nursery.train(tmp_path, 8) == [1] * 8
    said = [(tmp_path / f"error-{rank}.txt").read_text() for rank in range(8)]
    # Who is slow may find that the others have ended before it has heard why.
    assert any("8 processes cannot share steps of 7 tasks" in text for text in said)
    assert last_checkpoint(tmp_path) is None


@pytest.mark.parametrize("missing", VARIABLES)
def test_without_a_variable_of_torchrun_a_process_is_alone(missing):
    environment = dict.fromkeys(VARIABLES, "2") | {"RANK": "0", "LOCAL_RANK": "0"}
    del environment[missing]
    with training_group(environment) as group:
        assert group is None


def test_a_single_process_of_torchrun_is_alone_and_wrong_variables_are_named():
    one = dict.fromkeys(VARIABLES, "1") | {"RANK": "0", "LOCAL_RANK": "0"}
    with training_group(one) as group:
        assert group is None
    with pytest.raises(ConfigError, match="WORLD_SIZE=two"), training_group(one | {"WORLD_SIZE": "two"}):
        pass


def test_more_processes_than_tasks_are_refused():
    TrainingGroup(0, 4).check_tasks(4)
    with pytest.raises(ConfigError, match=r"4 processes cannot share steps of 3 tasks.*train\.tasks"):
        TrainingGroup(0, 4).check_tasks(3)
    assert TrainingGroup(3, 4, 1, 2).device("cuda") == "cuda:1" and TrainingGroup(3, 4, 1, 2).device("cpu") == "cpu"
