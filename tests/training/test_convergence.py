"""Runs that are as long as meta-validation rises, averaged weights, and races of regularisation before a run."""

import math

import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.training.checkpoint import last_checkpoint, save_checkpoint
from recsys_meta.training.recipe import recipe_of
from recsys_meta.training.regularization_race import race_recipes, run_race, settled_recipe
from recsys_meta.training.trainer import fit, from_checkpoint, to_checkpoint
from tests.fixtures.simulated_datasets import ranking_world
from tests.fixtures.small_datasets import recipe, same, tiny
from tests.training.test_trainer import begin, count_up, equal


@pytest.fixture(scope="module")
def world():
    return ranking_world(entities=40, items=20, rows=6)


def test_a_run_by_steps_is_validated_by_steps_whatever_an_epoch_is(world):
    run = begin(world, recipe(epochs=1, most_steps=11, validate_steps=4, patience=9))
    steps = list(fit(run, count_up()))
    assert [s.step for s in steps if s.valid is not None] == [4, 8, 11]
    assert run.step == run.steps == 11 and not run.stop_reason


def test_a_run_by_steps_ends_when_validation_gains_no_more(world):
    values = iter([0.1, 0.3, 0.2, 0.25, 0.3, 0.9])
    run = begin(world, recipe(most_steps=100, validate_steps=3, patience=3))
    steps = list(fit(run, lambda _: next(values)))
    assert steps[-1].step == 15 and "no gain" in run.stop_reason and run.best == 0.3


def test_validation_and_result_are_the_average_of_the_weights(world):
    run = begin(world, recipe(most_steps=6, validate_steps=6, average=0.6, patience=9))
    seen, expected = [], None
    for step in fit(run, lambda params: seen.append(params["item"].clone()) or 1.0):
        weights = run.params["item"].detach().clone()
        decay = min(0.6, step.step / (step.step + 9))
        expected = weights if expected is None else decay * expected + (1 - decay) * weights
    assert not torch.allclose(expected, run.params["item"].detach())
    torch.testing.assert_close(seen[-1], expected)
    torch.testing.assert_close(run.best_params_or_last()["item"], expected)


def test_resuming_an_averaged_run_ends_with_the_same_bits(world, tmp_path):
    made = recipe(most_steps=9, validate_steps=2, average=0.9, patience=9)

    def validate(params):
        return float(params["item"].sum())

    whole = begin(world, made)
    for step in fit(whole, validate):
        if step.step == 5:
            save_checkpoint(tmp_path, to_checkpoint(whole))
    resumed = begin(world, made)
    from_checkpoint(resumed, last_checkpoint(tmp_path))
    list(fit(resumed, validate))
    assert equal(to_checkpoint(resumed), to_checkpoint(whole))
    assert same(resumed.best_params_or_last(), whole.best_params_or_last())


RACE = {"steps": 3, "settings": [{"dims": 2}, {"dims": 5}, {"dims": 3}]}


def raced(**parts):
    return recipe_of(recipe().model_dump(mode="json") | {"race": RACE} | parts)


def test_a_race_trains_each_setting_for_its_steps_and_takes_the_best(world):
    trained = []

    def start(candidate):
        run = begin(world, candidate, learner=tiny(dims=candidate.config["dims"]))
        trained.append(run)
        return run

    result = run_race(raced(), start, lambda run: lambda _: -abs(run.learner.config.dims - 4.5))
    assert [run.step for run in trained] == [3, 3, 3]
    assert result.values == (-2.5, -0.5, -1.5) and result.best == {"dims": 5}
    settled = settled_recipe(raced(), result.best)
    assert settled.config["dims"] == 5 and not settled.race.settings and settled.train == raced().train
    assert race_recipes(settled) == []


def test_a_run_that_diverges_loses_the_race(world):
    def start(candidate):
        rate = 1e30 if candidate.config["dims"] == 2 else 0.01
        made = recipe_of(candidate.model_dump(mode="json"), [f"train.rate={rate}", "train.clip=1e30"])
        return begin(world, made, learner=tiny(dims=candidate.config["dims"]))

    result = run_race(raced(), start, lambda run: lambda _: 1.0 if run.learner.config.dims == 2 else 0.5)
    assert result.values[0] == -math.inf and result.best == {"dims": 5}


def test_what_is_asked_for_by_name_is_neither_raced_nor_stretched():
    raw = raced().model_dump(mode="json") | {"train": {"most_steps": 500}}
    asked = recipe_of(raw, ["train.epochs=2"])
    assert (asked.train.epochs, asked.train.most_steps, asked.race.settings) == (2, 0, ())
    asked = recipe_of(raw, ["config.dims=7"])
    assert asked.config["dims"] == 7 and all("dims" not in s for s in asked.race.settings)
    assert asked.train.most_steps == 500
    with pytest.raises(ConfigError, match=r"race\.steps"):
        recipe_of(raw | {"race": {"steps": 0}})
