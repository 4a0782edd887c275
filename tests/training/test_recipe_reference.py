"""Every key of every recipe has a type and a meaning, and its value is the one that training takes."""

from __future__ import annotations

import json

import pytest

from recsys_meta.core.errors import ConfigError
from recsys_meta.models.learners import LEARNERS
from recsys_meta.training.curricula import CURRICULA
from recsys_meta.training.recipe import recipe_of
from recsys_meta.training.recipe_reference import recipe_reference


def reference(**raw):
    return {key.key: key for key in recipe_reference(recipe_of({"name": "x", "learner": "maml", **raw}))}


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_key_of_a_learner_has_a_type_and_a_meaning(learner):
    keys = reference(learner=learner)
    assert {f"config.{name}" for name in LEARNERS[learner].Config.model_fields} <= set(keys)
    for key in keys.values():
        assert key.meaning and key.type, key.key


@pytest.mark.parametrize("curriculum", CURRICULA)
def test_settings_of_a_curriculum_are_keys(curriculum):
    keys = reference(curriculum={"name": curriculum})
    settings = [key for key in keys if key.startswith("curriculum.config.")]
    assert (settings == []) == (curriculum == "uniform")


def test_types_defaults_and_values_are_those_of_the_recipe():
    keys = reference(config={"dims": 9, "hidden": [4, 2]}, train={"rate": 0.5}, curriculum={"name": "hardness"})
    assert (keys["config.dims"].type, keys["config.dims"].default, keys["config.dims"].value) == (
        "whole number from 1",
        "64",
        "9",
    )
    assert (keys["config.hidden"].type, keys["config.hidden"].value) == ("list of whole number", "[4, 2]")
    assert (keys["train.rate"].type, keys["train.rate"].value) == ("number above 0", "0.5")
    assert keys["episodes.order"].type == '"random" | "data" | "window" | none'
    assert keys["episodes.empty"].type == "number from 0 to 1"
    assert keys["learner"].default is None and keys["learner"].value == '"maml"'
    starve = keys["curriculum.config.starve"]
    assert (json.loads(starve.default), starve.type) == (10, "whole number")


def test_without_a_recipe_there_are_the_sections_alone():
    keys = {key.key for key in recipe_reference()}
    assert {"name", "learner", "config", "train.epochs", "race.steps", "ensemble.members"} <= keys
    assert not any(key.startswith(("config.", "curriculum.config.")) for key in keys)


@pytest.mark.parametrize("raw", [{"learner": "none"}, {"curriculum": {"name": "none"}}])
def test_unknown_methods_are_named(raw):
    with pytest.raises(ConfigError, match=r"no (learner|curriculum) 'none'; there are"):
        reference(**raw)
