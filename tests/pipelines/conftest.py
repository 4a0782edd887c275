"""One home for all command tests: a small simulated data set, trained and published once."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from pipelines.cli import main
from pipelines.commands import stage_progress
from recsys_meta.data import open_dataset
from tests.fixtures.services import PATIENT, free_port

SMALL = (
    *("--set", "train.epochs=2", "--set", "config.dims=8", "--set", "config.towers=1", "--threads", "1"),
    *("--set", 'ensemble.members=["popularity", "naive-bayes"]', "--set", "new_items.choose=false"),
)


@dataclass(frozen=True)
class Command:
    """The command line, in this process: importing torch for each command would take most of the time. `more`: settings
    beside the home."""

    home: Path
    more: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *words: object, code: int = 0, printed: bool = False) -> str:
        """Output of a command that must exit with `code`: standard output, or what it said went wrong, unless what it
        `printed` is wanted all the same."""
        said, complained = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(complained):
            for name in [n for n in os.environ if n.startswith("RECSYS_META_")]:
                patch.delenv(name)
            patch.setenv("RECSYS_META_HOME", str(self.home))
            patch.setenv("COLUMNS", "200")
            for name, value in self.more.items():
                patch.setenv(name, value)
            patch.setattr(stage_progress, "LINE_S", 3600.0)  # what is printed does not depend on the time that it takes
            patch.setattr(sys, "argv", ["recsys-meta", *map(str, words)])
            with pytest.raises(SystemExit) as left:
                main()
        assert (left.value.code or 0) == code, f"{words}\n{said.getvalue()}\n{complained.getvalue()}"
        assert "Traceback" not in complained.getvalue()
        return said.getvalue() if code == 0 or printed else complained.getvalue()

    def json(self, *words: object):
        return json.loads(self(*words, "--json"))

    @property
    def environment(self) -> dict[str, str]:
        """For the few tests that need a process of its own."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RECSYS_META_")}
        return {**kept, "RECSYS_META_HOME": str(self.home), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def command(tmp_path_factory) -> Command:
    return Command(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def run(command) -> dict:
    """A finished run on the simulated users."""
    return command.json("train", "--recipe", "flagship", "--dataset", "simulated-users", *SMALL)


@pytest.fixture(scope="session")
def model(command, run) -> str:
    """The same, published."""
    return command.json("models", "publish", run["run"], "--name", "shop", "--force")["model"]


@pytest.fixture(scope="session")
def items(command, run) -> list[str]:
    """Some items of the catalogue, popular or not."""
    return [str(v) for v in open_dataset(command.home / "data" / "simulated-users").vocab.values["item"][:9]]


@pytest.fixture(scope="module")
def server(command, model):
    """A real server of the home's models, and a client for it, for all tests of a file."""
    with serving(command.environment) as client:
        yield client


@contextmanager
def serving(environment: Mapping[str, str]) -> Iterator[httpx.Client]:
    """A real server under an environment, and a client for it."""
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-c", PATIENT, "serve", "--port", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        deadline = time.monotonic() + 180
        while True:
            assert child.poll() is None and time.monotonic() < deadline, "the server did not come up"
            try:
                if client.get("/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield client
    child.terminate()
    assert child.wait(120) in (0, -15)
