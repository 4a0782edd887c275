"""What methods of a comparison cost, and which there are."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.experiments.comparison import MethodCost
from pipelines.experiments.comparison_run import FLAGSHIPS, every_learner
from pipelines.experiments.dataset_sources import learners_serving
from pipelines.experiments.method_cost import mean_cost, method_cost
from pipelines.experiments.process_timer import ProcessTimer
from pipelines.experiments.training_inputs import training_inputs
from pipelines.experiments.tuned_baselines import TunedBaselines
from pipelines.workspace import find_recipe, recipe_names
from recsys_meta.inference.state_codec import dump_state
from recsys_meta.models.learners import LEARNERS
from recsys_meta.models.learners.maml.maml import MamlConfig
from tests.fixtures.city_datasets import towns
from tests.fixtures.simulated_datasets import dataset, ranking_world
from tests.models.learners.cases import case_of


def test_parameters_and_the_bytes_of_a_state_are_counted():
    case = case_of("maml", "dot")
    with ProcessTimer() as timer:
        sum(range(100_000))
    cost = method_cost(case.learner, case.params, case.batch, timer)
    assert cost.parameters == sum(v.numel() for v in case.params.values())
    state = case.learner.adapt(case.learner.body(case.params), case.batch.support)
    sizes = [len(dump_state({k: v[t : t + 1] for k, v in state.items()})) for t in range(len(case.batch.entity))]
    assert cost.state_bytes == round(np.mean(sizes)) and cost.state_bytes > 4 * MamlConfig(dims=8).dims
    assert cost.processor_seconds > 0 and 0 < cost.seconds == timer.seconds
    assert method_cost(case.learner, case.params, None, timer).state_bytes is None


def test_times_are_kept_beside_a_run(tmp_path):
    assert ProcessTimer.load(tmp_path) is None
    ProcessTimer(3.0, 2.0).save(tmp_path)
    kept = ProcessTimer.load(tmp_path)
    assert kept is not None and (kept.seconds, kept.processor_seconds) == (3.0, 2.0)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seconds": 1.0, "processor_seconds": "?"}'])
def test_damaged_times_are_none(tmp_path, text):
    (tmp_path / "time.json").write_text(text)
    assert ProcessTimer.load(tmp_path) is None


def test_costs_of_seeds_are_averaged():
    costs = [MethodCost(1.0, 2.0, 10, 100), MethodCost(3.0, 4.0, 13, None)]
    assert mean_cost(costs) == MethodCost(2.0, 3.0, 12, 100)
    assert mean_cost([MethodCost(1.0, 1.0, 5, None)]).state_bytes is None


def test_a_baseline_costs_what_its_tuning_took_whoever_asked_for_it_first():
    data = ranking_world()
    inputs = training_inputs(data, "world", scenario="new", split="seed", seed=0)
    tuned = TunedBaselines(inputs)
    tuned.tune("itemknn", (0, 3))
    first = tuned.time_taken("itemknn", (3, 0))
    assert first.seconds > 0 and first.processor_seconds is not None and first.processor_seconds > 0
    assert tuned.time_taken("itemknn", (0, 3)) is first
    assert tuned.time_taken("popularity", (0, 3)) is not first


@pytest.mark.parametrize(
    ("objective", "served", "others"), [("click", "cvar", "din"), ("ranking", "hsml", "posterior")]
)
def test_all_learners_are_those_of_every_recipe_that_serves_the_objective(objective, served, others):
    rows = [[0, 1, 2], [1, 2, 0]]
    data = dataset("few", objective, rows, [np.ones(3)] * 2)
    names = learners_serving(data, every_learner())
    assert served in names and others not in names and names[0] == "flagship"
    own = {n for n in recipe_names() if objective in LEARNERS[find_recipe(n).learner].objectives}
    assert own - set(FLAGSHIPS) == set(names) - {"flagship"} - set(LEARNERS.plugin_names)


def test_a_data_set_of_choices_has_the_gradient_family():
    names = learners_serving(towns(), every_learner())
    family = {"maml", "alpha-maml", "anil", "boil", "meta-sgd", "maml-pp", "reptile", "imaml", "cavia", "hsml", "mamo",
              "meta-lstm", "learned-optimizer"}  # fmt: skip
    assert {f"{name}-choice" for name in family} | {"din", "maml-din", "haml", "chaml"} <= set(names)
    assert not {"maml", "anil", "flagship-click"} & set(names)
