"""`train --from`: what is carried is said, and what cannot be carried is refused."""

import json

import pytest

from tests.pipelines.conftest import SMALL

TRAIN = ("train", "--recipe", "flagship", "--dataset", "simulated-users", *SMALL)


@pytest.mark.slow
def test_a_run_starts_where_a_model_ended(command, model, run):
    made = command.json(*TRAIN, "--from", model, "--set", "train.epochs=1")
    spec = json.loads((command.home / "runs" / made["run"] / "run.json").read_text())
    assert run["version"] in spec["warm_start"]
    assert made["carried"].startswith(f"carried from {run['version']}")
    assert made["valid"] > run["valid"] * 0.95  # a run of one epoch from nothing is far below


def test_what_cannot_be_carried_is_refused(command, model):
    assert "no live version" in command(*TRAIN, "--from", "nobody", code=1)
    said = command("train", "--recipe", "maml", "--dataset", "simulated-users", "--from", model, code=1)
    assert "is of 'flagship', and the recipe trains 'maml'" in said
    assert "keeps its own" in command("train", "--resume", "x", "--from", model, code=2)
