import json

import numpy as np
import pytest

from pipelines.experiments.training_inputs import SCENARIOS, default_shots, event_index_for, training_inputs
from recsys_meta.core.errors import ConfigError
from recsys_meta.data import open_dataset
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
