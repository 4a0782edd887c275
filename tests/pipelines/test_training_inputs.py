import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.experiments import meta_validation, recipe_learner
from pipelines.experiments.meta_validation import training_criterion, validation_of
from pipelines.experiments.recipe_learner import learner_of
from pipelines.experiments.training_inputs import SCENARIOS, default_shots, event_index_for, training_inputs
from pipelines.experiments.training_run import fitting_recipe
from pipelines.workspace import find_recipe
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST
from recsys_meta.data import open_dataset
from recsys_meta.evaluation import cold_start
from tests.pipelines.conftest import SMALL


@pytest.fixture(scope="module")
def data(command, run):
    return open_dataset(command.home / "data" / "simulated-users")


@pytest.mark.parametrize("scenario", ["", "actor", "sampled", "New"])
def test_an_unknown_scenario_is_refused(data, scenario):
    for call in (
        lambda: event_index_for(data, scenario, 0),
        lambda: default_shots(data, scenario),
        lambda: training_inputs(data, "x", scenario=scenario, split="seed", seed=0),
    ):
        with pytest.raises(ConfigError, match=f"no scenario '{scenario}'; there are {', '.join(SCENARIOS)}"):
            call()


def test_training_sees_all_rows_but_those_of_the_grid(data):
    plain = training_inputs(data, "x", scenario="new", split="seed", seed=3)
    assert plain.grid is None and plain.train_index is plain.index
    cut = training_inputs(data, "x", scenario="corners", split="seed", seed=3)
    assert cut.grid is not None and cut.train_index is cut.grid.training
    assert 0 < len(cut.train_index.item) < len(cut.index.item) == len(plain.index.item)
    assert np.array_equal(cut.split.train, plain.split.train)


def test_the_criterion_on_meta_training_is_that_of_meta_validation_on_other_tasks(data):
    inputs = training_inputs(data, "x", scenario="new", split="seed", seed=3)
    recipe = find_recipe("flagship", ["config.dims=4", "config.towers=1"])
    learner = learner_of(recipe, data)
    params = learner.init(data, inputs.split.train, torch.Generator().manual_seed(0))
    on_training = training_criterion(learner, inputs, recipe)(params)
    assert on_training != validation_of(learner, inputs, recipe)(params)
    few = inputs.split.valid[:60]
    turned = replace(inputs, split=replace(inputs.split, train=few))
    plain = replace(inputs, split=replace(inputs.split, valid=few))
    assert training_criterion(learner, turned, recipe)(params) == validation_of(learner, plain, recipe)(params)


def test_a_large_catalogue_is_validated_in_small_parts_with_the_same_result(data, monkeypatch):
    inputs = training_inputs(data, "x", scenario="new", split="seed", seed=3)
    recipe = find_recipe("flagship", ["config.dims=4", "config.towers=1"])
    learner = learner_of(recipe, data)
    params = learner.init(data, inputs.split.train, torch.Generator().manual_seed(0))
    whole = validation_of(learner, inputs, recipe)(params)
    sizes, original = [], cold_start.evaluate_batch
    monkeypatch.setattr(cold_start, "evaluate_batch", lambda *a: sizes.append(len(a[3].entity)) or original(*a))
    monkeypatch.setattr(meta_validation, "VALIDATION_CELLS", 1)
    assert validation_of(learner, inputs, recipe)(params) == pytest.approx(whole, abs=1e-6)
    assert 0 < max(sizes) <= meta_validation.LEAST_CHUNK < len(inputs.split.valid)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("curriculum.name=hardest", "no curriculum 'hardest'"),
        ("curriculum.config={keep = 3.0}", "curriculum.config"),
        ("learner=perceptron", "perceptron"),
        ("config.dimensions=8", "dimensions"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_before_the_run_is_recorded(command, run, setting, complaint):
    before = command.json("runs", "list")
    assert complaint in command("train", "--dataset", "simulated-users", *SMALL, "--set", setting, code=1)
    assert command.json("runs", "list") == before
    assert len(list((command.home / "runs").glob("*/run.json"))) == len(before)


def test_a_run_names_its_data_set_by_name(command, run):
    content = json.loads((command.home / "runs" / run["run"] / "run.json").read_text())
    assert (content["dataset"], content["scenario"], content["split"]) == ("simulated-users", "new", "seed")


def test_the_softmax_over_a_large_catalogue_is_sampled_unless_the_recipe_says_how_it_is(data, monkeypatch):
    inputs, said = training_inputs(data, "x", scenario="new", split="seed", seed=3), []
    assert "negatives" not in fitting_recipe(find_recipe("flagship"), inputs, said.append).config
    monkeypatch.setattr(recipe_learner, "MOST_SOFTMAX_ITEMS", data.catalogue - FIRST - 1)
    for name in ("flagship", "prototypical"):
        assert fitting_recipe(find_recipe(name), inputs, said.append).config["negatives"] == recipe_learner.NEGATIVES
    assert len(said) == 2 and f"{data.catalogue - FIRST:,} items" in said[0]
    whole = find_recipe("flagship", ["config.negatives=0"])
    assert fitting_recipe(whole, inputs, said.append).config["negatives"] == 0
    assert fitting_recipe(find_recipe("anil"), inputs, said.append).config["negatives"] == 256
    assert len(said) == 2
