"""`benchmarks.stability`: spread over seeds from results of comparisons; a newcomer of one split is one observation."""

import json

import numpy as np
import pytest

from benchmarks.stability import seed_means, spreads
from pipelines.experiments.comparison import Comparison, MethodCurves, values_of_seeds
from recsys_meta.evaluation.curve import ColdStartCurve
from tests.pipelines.conftest import SMALL, Command


def test_spreads_are_deviations_of_means_over_seeds(command, tmp_path):
    methods = ("--learners", "none", "--baselines", "popularity,ials")
    words = ("compare", "--dataset", "simulated-users", *methods, "--shots", "3")
    command(*words, "--split", "seed:1", "--seeds", "3", "--json", tmp_path / "training.json")
    for seed in (0, 1):
        command(*words, "--split", f"seed:{seed}", "--seeds", "1", "--json", tmp_path / f"{seed}.json")
    training = seed_means([tmp_path / "training.json"], "ndcg@10")
    split = seed_means([tmp_path / "0.json", tmp_path / "1.json"], "ndcg@10")
    rows = {row["method"]: row for row in spreads(training, split)}
    assert rows["popularity"]["training"] == pytest.approx(0, abs=1e-12) and rows["popularity"]["split"] > 0
    assert rows["ials"]["training"] > 0 and rows["ials"]["seeds"] == [3, 2]
    content = json.loads((tmp_path / "training.json").read_text())["rows"]
    counts = {row["seed"]: row["n"] for row in content if row["method"] == "ials" and row["metric"] == "ndcg@10"}
    assert counts[None] == counts[0] == counts[2], "a newcomer of one split is one observation"


def test_a_model_of_a_named_split_is_evaluated_on_the_supports_that_a_comparison_draws(tmp_path):
    command = Command(tmp_path / "home")  # a model more would be in the way of other tests
    run = command.json("train", "--dataset", "simulated-users", "--split", "seed:1", "--seed", "2", *SMALL)
    command("models", "publish", run["run"], "--name", "spread", "--force")
    protocol = ("--baselines", "popularity", "--shots", "3", "--order", "random")
    command("evaluate", "spread", *protocol, "--json", tmp_path / "model.json")
    words = ("compare", "--dataset", "simulated-users", "--learners", "none", "--split", "seed:1", "--seeds", "1")
    command(*words, *protocol, "--json", tmp_path / "comparison.json")
    files = [json.loads((tmp_path / name).read_text())["rows"] for name in ("model.json", "comparison.json")]
    means = [{r["metric"]: r["value"] for r in rows if r["method"] == "popularity"} for rows in files]
    assert means[0] == means[1] and means[0]["ndcg@10"] > 0


def test_a_file_without_rows_of_the_metric_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match=r"a\.json: no rows of 'mrr'"):
        seed_means([tmp_path / "a.json"], "mrr")


def test_several_trainings_on_one_split_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(0.5, 0.2, 40)
    curve = ColdStartCurve("ease", np.arange(40), {1: {"ndcg@10": values}})
    other = ColdStartCurve("ease", np.arange(1, 41), {1: {"ndcg@10": values}})
    intervals = [
        Comparison("shop", "new", ("ndcg@10",), (1,), [MethodCurves("ease", "baseline", curves)])
        .method_points("ndcg@10")[0]
        .points[0]
        for curves in ({0: curve}, {0: curve, 1: curve, 2: curve})
    ]
    assert [intervals[1].low, intervals[1].value, intervals[1].n] == pytest.approx(
        [intervals[0].low, intervals[0].value, intervals[0].n]
    )
    assert len(values_of_seeds([curve, other], 1, "ndcg@10")) == 2, "other newcomers are other observations"
