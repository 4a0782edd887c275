"""Artefacts of an earlier state of the code are read, written again and answered with as they were then."""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from tests.golden.home import (
    GOLDEN,
    RUN,
    add_run,
    command,
    differences,
    figures,
    published,
    read,
    released,
    served,
)

BUNDLES = ("users", "maml-users", "ads", "cities")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A home where all golden bundles are published."""
    made = tmp_path_factory.mktemp("golden")
    for name in BUNDLES:
        published(made, GOLDEN / "bundles" / name, read(f"bundles/{name}.run.json"), name)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_that_was_read_is_written_with_the_same_bytes(home: Path, name: str, tmp_path: Path) -> None:
    kept = GOLDEN / "bundles" / name
    assert sha256((kept / "bundle.json").read_bytes()).hexdigest()[:16] == read("bundles/versions.json")[name]
    source = released(kept, tmp_path)
    (target,) = (home / "models" / name).iterdir()
    if {"pandas": pd.__version__, "pyarrow": pa.__version__} != read("libraries.json"):
        pytest.skip("another version of pandas or pyarrow writes Parquet in other bytes")
    assert contents(target) == contents(source)
    assert target.name == source.name


def test_stored_requests_are_answered_as_they_were(home: Path) -> None:
    requests, answers = read("requests.json"), read("answers.json")
    found = served(home, requests)
    assert found.keys() == answers.keys() and len(found) > 20
    assert list(differences(answers, found, 1e-5)) == []


def test_the_command_line_answers_as_the_api_did(home: Path) -> None:
    body = read("requests.json")["users, adapted"][1]
    items = ",".join(event["item"] for event in body["events"])
    kept = served(home, {"list": ("/v1/recommendations", {**body, "n": 7})})["list"]["items"]
    for model in ("users", str(GOLDEN / "bundles" / "users")):
        found = command(home, "recommend", model, "--items", items, "-n", 7)
        assert list(differences(kept, found["items"], 1e-6)) == []


def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    """The data lie where the test puts them: a plan names their folder, a checkpoint only their digest."""
    shutil.copytree(GOLDEN / "run" / "data", tmp_path / "data")
    shutil.copytree(GOLDEN / "run" / "checkpoints", tmp_path / "runs" / RUN / "checkpoints")
    add_run(tmp_path, {**read("run/run.json"), "dataset": str(tmp_path / "data")})
    done, end = command(tmp_path, "train", "--resume", RUN), read("run/end.json")
    metrics = figures(tmp_path, RUN)  # what is recorded since then comes on top
    known = {key: value for key, value in metrics.items() if key in end["metrics"]}
    found = {"steps": done["steps"], "valid": done["valid"], "metrics": known}
    assert list(differences(end, found, 1e-4)) == []
    (stop,) = (GOLDEN / "run" / "checkpoints").iterdir()
    last = max(int(path.name) for path in (tmp_path / "runs" / RUN / "checkpoints").iterdir())
    assert int(stop.name) < last == end["steps"]
