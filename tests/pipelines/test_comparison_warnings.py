"""What a comparison warns of: choices of baselines at the end of a range that did not grow."""

import json

import numpy as np
import pytest

from pipelines.commands.comparison_output import print_comparison
from pipelines.experiments.comparison import Comparison, MethodCurves
from recsys_meta.evaluation import tuning_trial
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.models.baselines.item_based.naive_bayes import NaiveBayes


@pytest.fixture
def narrow(monkeypatch):
    """Naive Bayes with a grid that ends before the optimum."""
    monkeypatch.setattr(NaiveBayes, "search_space", lambda self: {"trust": (0.05, 0.2)})


def compare(command, folder):
    out = folder / "results.json"
    command(
        *("compare", "--dataset", "simulated-users", "--learners", "none", "--baselines", "popularity,naive-bayes"),
        *("--shots", "3", "--seeds", "2", "--json", out, "--html", folder),
    )
    methods = {m["method"]: m for m in json.loads(out.read_text())["methods"]}
    return methods, (folder / "report.html").read_text()


def test_an_end_is_a_warning_in_results_and_report(command, narrow, monkeypatch, tmp_path):
    monkeypatch.setattr(tuning_trial, "WIDENING_ROUNDS", 0)
    methods, page = compare(command, tmp_path)
    assert methods["popularity"]["warnings"] == []
    warnings = methods["naive-bayes"]["warnings"]
    assert [w.partition(": ")[0] for w in warnings] == ["seed 0", "seed 1"]
    assert all("naive-bayes: trust=0.2 (upper end) is best at 3 shots" in w for w in warnings)
    assert "<h2>Warnings</h2>" in page and all(w in page for w in warnings)


def test_ranges_that_grow_leave_nothing_to_warn_of(command, narrow, tmp_path):
    methods, page = compare(command, tmp_path)
    assert not any(m["warnings"] for m in methods.values())
    assert "<h2>Warnings</h2>" not in page


def test_warnings_are_printed_last_and_once_for_all_scenarios(capsys):
    curve = ColdStartCurve("ease", np.arange(3), {1: {"ndcg@10": np.array([0.1, 0.2, 0.3])}})
    method = MethodCurves("ease", "baseline", {0: curve}, warnings=("seed 0: ease: ridge=1 [lower end]",))
    results = [Comparison("shop", scenario, ("ndcg@10",), (1,), [method]) for scenario in ("new-known", "new-new")]
    print_comparison(results)
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1] == "warning: seed 0: ease: ridge=1 [lower end]"
    assert sum("warning" in line for line in printed) == 1
