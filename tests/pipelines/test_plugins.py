"""Packages of one's own: their learners, baselines, curricula and data sets by name, in every command."""

from __future__ import annotations

import json
import os
import sys

import pytest

from tests.fixtures.plugin_packages import LEARNER, install, write_package
from tests.pipelines.conftest import Command, serving

OTHERS = """
import numpy as np
import torch

from recsys_meta.data import DataSource, simulate_users
from recsys_meta.models.baselines import BaselineConfig
from recsys_meta.training.curricula import CURRICULA

few_users = DataSource(title="few users", terms="free", simulate=lambda seed: simulate_users(90, 60, 2000, seed))


class Plain(BaselineConfig):
    name = "plain"
    objective: str = "ranking"
    strength: float = 1.0

    def fit(self, data, entities):
        return {"item": torch.from_numpy(np.bincount(data.events.item, minlength=data.catalogue)).float()}

    def adapt(self, body, support):
        return {"none": torch.zeros(support.size)}

    def rank(self, body, state):
        return body["item"].expand(len(state["none"]), -1)


def in_turn(pool, **config):
    return CURRICULA["uniform"](pool, **config)
"""
SHORT = ("--set", "train.epochs=1", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    entries = {
        "learners": {"shrunk-mean": "shrunk_mean:ShrunkMean", "maml": "shrunk_mean:ShrunkMean", "torn": "torn:X"},
        "baselines": {"plain": "others:Plain", "misnamed": "others:Plain"},
        "curricula": {"in-turn": "others:in_turn"},
        "datasets": {"few-users": "others:few_users"},
    }
    write_package(folder, "my-methods", entries, {"shrunk_mean": LEARNER, "others": OTHERS, "torn": "import nothing_"})
    return folder


@pytest.fixture
def installed(folder, monkeypatch):
    install(monkeypatch, folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Command:
    return Command(tmp_path_factory.mktemp("home"))


@pytest.mark.slow
def test_a_learner_of_one_s_own_trains_compares_publishes_and_serves(home, folder, installed, tmp_path, monkeypatch):
    start = ("train", "--recipe", "shrunk-mean", "--dataset", "few-users", *SHORT)
    assert set(home.json(*start, "--set", 'ensemble.members=["plain"]')["ensemble"]) == {"shrunk-mean", "plain"}
    run = home.json(*start, "--set", "curriculum.name=in-turn")
    assert run["config"]["config"] == {"dims": 16}
    results = tmp_path / "results.json"
    home(
        *("compare", "--dataset", "few-users", "--learners", "shrunk-mean", "--baselines", "plain,popularity"),
        *("--seeds", "1", "--shots", "0,5", *SHORT, "--json", results),
    )
    assert {"shrunk-mean", "plain", "popularity"} <= {r["method"] for r in json.loads(results.read_text())["rows"]}
    tuned = home.json("tune", "--recipe", "shrunk-mean", "--dataset", "few-users", "--trials", "1", "--steps", "2")
    assert set(tuned["best"]["params"]) == {"config.dropout"}
    model = home.json("models", "publish", run["run"], "--name", "mine", "--force")["model"]
    answer = home.json("recommend", model, "-n", "3")
    environment = {**home.environment, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    with serving(environment) as client:
        served = client.post("/v1/recommendations", json={"model": model, "entity": {"kind": "user"}, "n": 3}).json()
    assert served["items"] == answer["items"]
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(folder)])
    complaint = home("recommend", model, code=1)
    assert "shrunk-mean: registered by the package my-methods, which is not installed here" in complaint


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "--recipe", "maml"), "learner 'maml' is registered by recsys-meta and by the package my-methods"),
        (("train", "--recipe", "torn"), "learner 'torn' of the package my-methods (torn:X) cannot be imported"),
        (("train", "--recipe", "lost"), "no recipe 'lost'; there are"),
        (("compare", "--learners", "torn", "--baselines", "none"), "learner 'torn' of the package my-methods"),
        (("compare", "--learners", "none", "--baselines", "misnamed"), "its attribute name is 'plain'"),
        (("train", "--set", "learner=os:system"), "no learner or baseline 'os:system'"),
    ],
)
def test_a_broken_one_is_one_line_that_names_its_package(home, installed, words, says):
    complaint = home(*words, "--dataset", "few-users", code=1)
    assert says in complaint and "\n" not in complaint.strip()


def test_a_broken_one_stops_no_other_command(home, installed):
    names = {row["name"] for row in home.json("data", "list")}
    assert {"few-users", "simulated-users"} <= names
    report = {row["what"]: row for row in json.loads(home("doctor", "--json", code=1, printed=True))}
    for problem in ("'torn'", "'maml'", "'misnamed'"):
        assert problem in report["plugins"]["detail"]
    assert {what for what, row in report.items() if row["state"] == "failed"} == {"plugins"}


def test_checks_of_a_learner_and_a_baseline_by_name(home, installed):
    rows = home.json("check-learner", "shrunk-mean", "--objective", "ranking")
    assert len(rows) > 10 and all(row["problem"] is None for row in rows)
    complaint = home("check-baseline", "plain", code=1)
    assert "other entities change no parameter (ranking)" in complaint
    assert "no learner 'nobody'" in home("check-learner", "nobody", code=1)
