"""A run is trained by one process at a time, and a disk that is full is one line."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from pipelines.console import COMMAND, command_name, with_command
from pipelines.experiments import training_run
from pipelines.workspace import Workspace
from recsys_meta.core.errors import CheckpointError, ConflictError
from recsys_meta.core.folder_lock import folder_lock
from recsys_meta.store.settings import Settings
from recsys_meta.training.checkpoint import Checkpoint, last_checkpoint, save_checkpoint
from tests.fixtures.pgbouncer import pgbouncer_url  # noqa: F401  (fixtures are found by name)
from tests.fixtures.services import postgres_server  # noqa: F401
from tests.pipelines.conftest import SMALL, Command


def test_a_folder_is_locked_against_processes_and_threads(tmp_path):
    code = (
        "import sys; from pathlib import Path; from recsys_meta.core.folder_lock import folder_lock\n"
        "with folder_lock(Path(sys.argv[1]), 'taken'): print('free')"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with folder_lock(tmp_path, "taken"):
        with pytest.raises(ConflictError, match="taken"), folder_lock(tmp_path, "taken"):
            pass
        assert "ConflictError: taken" in subprocess.run(command, check=False, capture_output=True, text=True).stderr
    assert subprocess.run(command, check=False, capture_output=True, text=True).stdout == "free\n"


def test_two_resumes_of_one_run_are_refused(command, run, monkeypatch):
    """The second one, while the first is at work; a run that is being trained for the first time likewise."""
    workspace = Workspace(Settings(home=command.home, database_url="", redis_url="", api_keys=""))
    began, may_end, real = threading.Event(), threading.Event(), training_run._execute

    def slow(*given, **named):
        began.set()
        may_end.wait(60)
        return real(*given, **named)

    monkeypatch.setattr(training_run, "_execute", slow)
    first = threading.Thread(target=training_run.resume_run, args=(workspace, run["run"]))
    first.start()
    assert began.wait(60)
    try:
        told = command("train", "--resume", run["run"], code=1)
        assert "is being trained by another process" in told and "Traceback" not in told
        assert command.json("runs", "show", run["run"])["status"] == "running"
    finally:
        may_end.set()
        first.join()


FULL = """
import resource, sys
from pathlib import Path
import torch
from recsys_meta.training.checkpoint import Checkpoint, save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
save_checkpoint(Path(sys.argv[1]), Checkpoint(2, {"w": torch.zeros(100_000)}, {}))
"""


def test_a_checkpoint_that_does_not_fit_is_one_error_and_the_one_before_stays(tmp_path):
    """A file may not grow beyond a limit here: as on a full disk, writing fails half-way."""

    save_checkpoint(tmp_path, Checkpoint(1, {"w": torch.zeros(10)}, {}))
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], check=False, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert "CheckpointError" in last and "cannot be written" in last and "--resume" in last
    found = last_checkpoint(tmp_path)
    assert found is not None and found.step == 1
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["00000001"]


@pytest.mark.slow
def test_a_run_on_a_full_disk_ends_in_one_line(tmp_path):
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000)); "
        "sys.argv = ['recsys-meta', *sys.argv[1:]]; from pipelines.__main__ import main; main()"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RECSYS_META")}
    words = ["train", "--dataset", "simulated-users", *SMALL, "--set", "config.dims=512"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        check=False,
        env={**kept, "RECSYS_META_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error:" in done.stderr.strip().splitlines()[-1]


def test_errors_of_files_say_which(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        file = tmp_path / "file"
        file.write_text("")

        save_checkpoint(file, Checkpoint(1, {"w": torch.zeros(1)}, {}))


def test_hints_are_typed_as_they_stand(tmp_path, monkeypatch):
    """By name where the shell finds this installation's command, by path where it finds none or another."""
    own = Path(sys.executable).parent / COMMAND
    if not own.is_file():
        pytest.skip("the command is not installed beside this Python")
    hint = "run `recsys-meta db upgrade`"
    monkeypatch.setenv("PATH", str(own.parent))
    assert (command_name(), with_command(hint)) == (COMMAND, hint)
    other = tmp_path / COMMAND
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    for path in (str(tmp_path / "nowhere"), str(tmp_path)):
        monkeypatch.setenv("PATH", path)
        assert with_command(hint) == f"run `{command_name()} db upgrade`"
        said = subprocess.run([command_name(), "--version"], capture_output=True, text=True, check=True).stdout
        assert said.startswith("recsys-meta ")
    monkeypatch.chdir(own.parents[2])
    assert command_name() == str(own.relative_to(own.parents[2]))
    assert with_command("Next: recsys-meta models list") == f"Next: {command_name()} models list"
    assert with_command("the recsys-meta project") == "the recsys-meta project"


@pytest.mark.slow
def test_a_run_is_trained_behind_pgbouncer(tmp_path, pgbouncer_url):  # noqa: F811
    """It writes metrics after each few steps: with prepared statements it nearly always failed."""
    behind = Command(tmp_path, {"RECSYS_META_DATABASE_URL": pgbouncer_url})
    behind("db", "upgrade")
    finished = behind.json("train", "--recipe", "flagship", "--dataset", "simulated-users", *SMALL)
    assert behind.json("runs", "show", finished["run"])["status"] == "finished"
    behind.json("models", "publish", finished["run"], "--name", "shop", "--force")
    assert {c["what"] for c in behind.json("doctor") if c["state"] == "failed"} == set()
