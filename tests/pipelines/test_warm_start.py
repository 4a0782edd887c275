"""`train --from`: what is carried is said, and what cannot be carried is refused."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.experiments.carried_start import choose_start
from pipelines.experiments.recipe_race import inherited_recipe
from pipelines.experiments.shared_entities import describe_overlap
from pipelines.experiments.training_inputs import training_inputs
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.bundle import make_bundle
from recsys_meta.models.learners.ranking.flagship import Flagship, FlagshipConfig
from recsys_meta.training.recipe import recipe_of
from tests.fixtures.simulated_datasets import ranking_world
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


def test_what_a_race_would_choose_is_as_the_model_was_trained():
    data = ranking_world(entities=60, items=30, rows=10)
    learner, train, notes = Flagship(FlagshipConfig(dims=4, towers=1, dropout=0.2)), np.arange(40), list[str]()
    params = learner.init(data, train, torch.Generator().manual_seed(0))
    model = make_bundle(learner, params, data, EventIndex.of(data), train, {})
    settings = {"dims": 4, "towers": 1, "memories": [], "decay": 0.3}
    race = {"settings": [{"dropout": 0.5}, {"dropout": 0.6}]}
    recipe = recipe_of({"name": "raced", "learner": "flagship", "config": settings, "race": race})
    inputs = training_inputs(data, "here", scenario="new", split="seed", seed=0)
    settled = inherited_recipe(recipe, inputs, model, notes.append)
    assert (settled.config["dropout"], settled.config["decay"], settled.race.settings) == (0.2, 0.3, ())
    assert "dropout=0.2" in notes[0] and "decay" not in notes[0]


def test_a_model_of_another_split_may_know_who_validates():
    data = ranking_world(entities=60, items=30, rows=10)
    learner, train = Flagship(FlagshipConfig(dims=4, towers=1)), np.arange(40)
    params = learner.init(data, train, torch.Generator().manual_seed(0))
    model = make_bundle(learner, params, data, EventIndex.of(data), train, {"seed": 0, "split": "seed"})

    def warning(data, seed, split="seed"):
        of_split = replace(model, about={**model.about, "split": split})
        return describe_overlap(of_split, training_inputs(data, "here", scenario="new", split=split, seed=seed))

    other_schema = replace(data, schema=data.schema.model_copy(update={"name": "other"}))
    assert warning(data, 0) is None and warning(other_schema, 0) is None
    assert "another split" in warning(data, 1) and "another split" in warning(replace(data, digest="more"), 0)
    assert warning(data, 1, "seed:3") is None and "another split" in warning(replace(data, digest="more"), 0, "seed:3")
    assert warning(replace(data, digest="more"), 1, "hash:0") is None  # entities keep their part while data grow


@pytest.mark.parametrize(("best", "kept"), [(4.0, 1.0), (3.1, 0.75), (1.9, 0.5), (math.nan, 1.0)])
def test_a_start_keeps_as_much_as_is_best_on_meta_validation(best, kept):
    fresh = {"items": torch.zeros(3, 2), "counts": torch.arange(3)}
    carried = {"items": torch.full((3, 2), 4.0), "counts": torch.arange(3) + 5}
    notes = []
    start = choose_start(fresh, carried, lambda params: -abs(float(params["items"].mean()) - best), notes.append)
    assert torch.equal(start["items"], torch.full((3, 2), 4.0 * kept)) and torch.equal(
        start["counts"], carried["counts"]
    )
    assert torch.equal(carried["items"], torch.full((3, 2), 4.0)) and not fresh["items"].any()
    assert len(notes) == (kept < 1) and all(f"{kept:.0%} of what was carried" in note for note in notes)


@pytest.mark.slow
def test_a_race_is_held_from_a_model_where_it_is_asked_for(command, model):
    race = ("--set", "race.steps=1", "--set", "race.settings=[{dropout=0.5}, {dropout=0.6}]", "--set", "config.dims=8")
    small = (*race, "--set", "config.towers=1", "--set", "train.most_steps=2", "--set", "ensemble.members=[]")
    from_model = ("train", "--recipe", "flagship", "--dataset", "simulated-users", "--from", model, *small)
    assert command.json(*from_model)["config"]["config"]["dropout"] == 0.3
    assert command.json(*from_model, "--race")["config"]["config"]["dropout"] in (0.5, 0.6)


def test_a_race_belongs_to_a_model(command):
    assert "--from" in command("train", "--dataset", "simulated-users", "--race", code=2)
