"""`compare --truth`: bounds beside the methods of simulated data, and how much of the way to them is gone."""

import json

import pytest

from pipelines.workspace import Workspace
from recsys_meta.store.settings import Settings
from recsys_meta.store.tracking import evaluations

pytestmark = pytest.mark.slow

WORDS = ("compare", "--dataset", "simulated-users", "--learners", "none", "--seeds", "1")


def test_bounds_are_in_table_and_file_but_no_baselines(command, tmp_path):
    out = tmp_path / "truth.json"
    text = command(
        *WORDS, "--baselines", "gaussian", "--shots", "3", "--truth", "--json", out, "--html", tmp_path / "report"
    )
    words = " ".join(text.split())  # a title is as wide as its table
    assert "oracle (knows the world)" in words and "Share of the way from popularity to bayes" in words
    content = json.loads(out.read_text())
    value = {r["method"]: r["value"] for r in content["rows"] if r["metric"] == "ndcg@10"}
    assert {r["role"] for r in content["rows"] if r["method"] in ("oracle", "bayes")} == {"bound"}
    assert value["oracle"] > value["bayes"] > value["gaussian"] > value["popularity"]
    (share,) = content["shares"]
    expected = (value["gaussian"] - value["popularity"]) / (value["bayes"] - value["popularity"])
    assert share["share"] == pytest.approx(expected)
    assert share["low"] < share["share"] < share["high"]
    assert {m["method"] for m in content["methods"]} == {"gaussian", "popularity"}
    assert "Share of the way" in (tmp_path / "report" / "report.html").read_text()
    workspace = Workspace(Settings(home=command.home, database_url="", redis_url="", api_keys=""))
    with workspace.reading() as session:
        for name in ("oracle", "bayes"):
            assert not evaluations.page_evaluations(session, method=name).items, "the database holds methods"


def test_the_truth_of_real_or_altered_data_is_refused_before_anything_is_trained(command):
    command("data", "prepare", "simulated-users", "--objective", "rating", "--out", command.home / "data" / "marks")
    assert "not of ratings" in command("compare", "--dataset", "marks", "--truth", code=1)
    assert "order time" in command(*WORDS, "--truth", "--order", "random", code=1)
    assert "scenario new" in command(*WORDS, "--truth", "--scenario", "corners", code=1)
