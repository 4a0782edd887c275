"""Comparisons in which single methods fail: they are told and left out, and all others are there."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipelines.commands.comparison_output import SummaryOutput
from pipelines.experiments import comparison_run
from pipelines.experiments.comparison import Comparison, MethodCurves, MethodFailure
from pipelines.experiments.dataset_sources import DatasetSource
from pipelines.experiments.method_failures import MethodFailures
from pipelines.experiments.training_steps import TrainingInterruption
from pipelines.experiments.tuned_baselines import TunedBaselines
from recsys_meta.core.errors import ConfigError, RecsysMetaError
from recsys_meta.evaluation.curve import ColdStartCurve

SMALL = ("compare", "--dataset", "simulated-users", "--shots", "0,3", "--seeds", "2")


@pytest.fixture
def failing(monkeypatch):
    """Trainings that fail, and a baseline whose tuning fails with the second seed."""
    tune = TunedBaselines.tune

    def failing_tune(self, name, *given):
        if name == "recent" and self._inputs.seed == 1:
            raise ZeroDivisionError("no day")
        return tune(self, name, *given)

    def failing_training(workspace, recipe, inputs, **_):
        raise RecsysMetaError(f"{recipe.name} has no memory [left]")

    monkeypatch.setattr(TunedBaselines, "tune", failing_tune)
    monkeypatch.setattr(comparison_run, "train_run", failing_training)


def test_methods_that_fail_are_told_and_all_others_are_compared(command, failing, tmp_path):
    file = tmp_path / "results.json"
    words = (*SMALL, "--learners", "maml", "--baselines", "popularity,recent", "--json", file, "--html", tmp_path)
    complaint = command(*words, code=1)
    assert "failed: maml, seed 0: maml has no memory [left]" in complaint
    assert "failed: recent, seed 1: unexpected ZeroDivisionError: no day" in complaint
    table = command(*words, code=1, printed=True).splitlines()
    assert [line.split()[0] for line in table if "failed" in line] == ["maml", "recent"]
    result = json.loads(file.read_text())
    assert [(f["method"], f["seed"]) for f in result["failed"]] == [("maml", 0), ("recent", 1)]
    # Not even the seed with which it did not fail: means over other seeds are not comparable.
    assert {r["method"] for r in result["rows"]} == {m["method"] for m in result["methods"]} == {"popularity"}
    assert {r["seed"] for r in result["rows"]} == {0, 1, None}
    assert "maml, seed 0: maml has no memory [left]" in (tmp_path / "report.html").read_text()


def test_a_comparison_of_which_nothing_remains_is_an_error(command, failing):
    complaint = command(*SMALL, "--learners", "maml,fomaml", "--baselines", "none", code=1)
    assert "every method failed: maml: maml has no memory [left]; fomaml: " in complaint


def test_a_learner_that_does_not_serve_the_objective_is_refused_before_anything_is_trained(command, failing):
    complaint = command(*SMALL, "--learners", "maml,din", "--baselines", "popularity", code=1)
    assert "'din' serves objective choice" in complaint and "training maml" not in complaint


def test_a_method_that_failed_on_one_of_several_data_sets_is_in_the_exit_status_and_the_file(tmp_path, capsys):
    curve = ColdStartCurve("popularity", np.arange(3), {1: {"ndcg@10": np.array([0.1, 0.2, 0.3])}})
    method = MethodCurves("popularity", "baseline", {0: curve})
    whole = Comparison("shop", "new", ("ndcg@10",), (1,), [method])
    lame = replace(whole, dataset="film", failures=(MethodFailure("maml", 0, "no memory"),))
    output = SummaryOutput(tmp_path / "all.json")
    for result in (lame, whole):
        output.add(DatasetSource(result.dataset, tmp_path, result.dataset), [result])
    assert output.finish() == 1
    (failed,) = json.loads((tmp_path / "all.json").read_text())["failed"]
    assert (failed["dataset"], failed["method"], failed["reason"]) == ("film", "maml", "no memory")
    assert "failed: maml, seed 0: no memory" in capsys.readouterr().err


def test_nothing_is_kept_silent_that_ends_a_comparison():
    notes = []
    going = MethodFailures(True, notes.append)
    with pytest.raises(TrainingInterruption), going.catch("maml", 0):
        raise TrainingInterruption("stopped")
    with pytest.raises(KeyboardInterrupt), going.catch("maml", 0):
        raise KeyboardInterrupt
    assert not list(going) and not notes
    with pytest.raises(ConfigError), MethodFailures(False, notes.append).catch("maml", 0):
        raise ConfigError("no")
    with going.catch("maml", 3):
        raise ConfigError("no")
    assert "maml" in going and "fomaml" not in going and notes == ["maml failed and is left out: no"]
