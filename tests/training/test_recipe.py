import copy

import pytest

from recsys_meta.core.errors import ConfigError
from recsys_meta.training.recipe import Recipe, read_recipe, recipe_of

RAW = {
    "name": "r",
    "learner": "maml",
    "config": {"dims": 8, "deep": {"a": 1}},
    "train": {"epochs": 5},
    "curriculum": {"name": "uniform", "config": {"a": {"b": 1}}},
}


def test_a_recipe_is_read_and_overridden(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('name = "r"\nlearner = "maml"\n[config]\ndims = 8\n[train]\nepochs = 5\n')
    got = read_recipe(path, ["train.epochs=7", "config.dims = 16", "config.hidden=[4, 4]", "episodes.draw=log"])
    assert (got.train.epochs, got.train.tasks, got.episodes.draw) == (7, 64, "log")
    assert got.config == {"dims": 16, "hidden": [4, 4]}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("0.5", 0.5), ("true", True), ("adapted", "adapted"), ('"7"', "7"), ("", ""), ("a=b", "a=b")],
)
def test_values_are_toml_or_plain_text(text, value):
    assert recipe_of(RAW, [f"config.x={text}"]).config["x"] == value


def test_overriding_changes_nothing_but_the_result():
    before = copy.deepcopy(RAW)
    assert recipe_of(RAW, ["curriculum.config.a.b=2", "config.deep.a=9", "name=other"]).config["deep"]["a"] == 9
    assert before == RAW


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["train.epochs"], "is not key=value"),
        (["=3"], "is not key=value"),
        (["train..epochs=3"], "is not key=value"),
        (["name.x=3"], "'name' is a value, not a table"),
        (["train.epochs.x=3"], "'epochs' is a value, not a table"),
        (["train.epoch=3"], r"train.epoch: .*did you mean epochs\?"),
        (["training.epochs=3"], r"training: .*did you mean train\?"),
        (["train.epochs=0"], "train.epochs"),
        (["train.epochs=many"], "train.epochs"),
        (["train.rate=nan"], "train.rate"),
        (["train.rate=inf"], "train.rate"),
        (["train.clip=-1"], "train.clip"),
        (["episodes.empty=1.5"], "episodes.empty"),
        (["episodes.draw=most"], "episodes.draw"),
        (["train=3"], "train"),
        (["name=a/b"], "name"),
        (["train.epoch=3", "episodes.shots=1"], "(?s)episodes.shots.*train.epoch"),
    ],
)
def test_wrong_overrides_are_named(overrides, says):
    with pytest.raises(ConfigError, match=says):
        recipe_of(RAW, overrides)


@pytest.mark.parametrize("content", [b"name = ", b"\xff", b'learner = "maml"'])
def test_a_wrong_file_is_named(tmp_path, content):
    path = tmp_path / "wrong.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"wrong\.toml"):
        read_recipe(path)
    with pytest.raises(ConfigError, match=r"none\.toml"):
        read_recipe(tmp_path / "none.toml")


def test_a_recipe_survives_json_and_is_frozen():
    recipe = recipe_of(RAW)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "x"


def test_a_run_stored_with_settled_changes_is_read_and_a_recipe_that_asks_for_them_is_refused():
    settled = {"below": 0, "config": {}, "train": {}}
    assert recipe_of(RAW | {"few": settled}) == recipe_of(RAW)
    with pytest.raises(ConfigError, match="few"):
        recipe_of(RAW | {"few": settled | {"below": 9}})


def test_a_number_of_epochs_is_the_length_of_the_run():
    raw = RAW | {"train": {"least_steps": 400, "most_steps": 900}, "race": {"settings": [{"dropout": 0.1}]}}
    asked = recipe_of(raw, ["train.epochs=2"])
    assert (asked.train.epochs, asked.train.least_steps, asked.train.most_steps) == (2, 0, 0)
    assert not asked.race.settings
