"""`recsys-meta recipes`, and what commands say of keys that there are not."""

from __future__ import annotations

import pytest

from pipelines.workspace import recipe_names


def test_recipes_are_listed_with_what_they_are(command):
    rows = {row["name"]: row for row in command.json("recipes", "list")}
    assert set(rows) == set(recipe_names())
    assert all(row["about"] and row["objectives"] for row in rows.values())
    assert not any(row["about"].endswith("et al") for row in rows.values())
    assert rows["fomaml"]["learner"] == "maml" and "flagship-click" in command("recipes", "list")


def test_a_recipe_is_shown_as_it_would_train(command):
    keys = {k["key"]: k for k in command.json("recipes", "show", "flagship", "--set", "train.tasks=3")}
    assert keys["train.tasks"]["value"] == "3" and keys["config.towers"]["value"] == "3"
    assert keys["train.tasks"]["meaning"] == "episodes of a step"
    assert (keys["train.rate"]["value"], keys["train.rate"]["default"]) == ("0.006", "0.003")
    words = command("recipes", "show", "flagship").split()  # cells are folded where the window is narrow
    assert {"config.dims", "train.rate", "0.006", "(default", "0.003)"} <= set(words) and "6e-3" not in words
    assert "train.rate" in command("recipes", "show") and "config.dims" not in command("recipes", "show")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--set", "train.epoch=3"), "train.epoch: there is no such key here; did you mean epochs? There are: tasks,"),
        (
            ("--set", "trian.epochs=3"),
            "trian: there is no such key here; did you mean train? There are: name, learner,",
        ),
        (("--set", "train.members=3"), "train.members: there is no such key here; it belongs under [ensemble]."),
        (("--set", "config.dimz=3"), "configuration of 'maml': dimz: there is no such key here; did you mean dims?"),
        (
            ("--set", "curriculum.name=hardness", "--set", "curriculum.config.strave=3"),
            "strave: there is no such key here; did you mean starve? There are: starve,",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest_and_those_there_are(command, words, says):
    complaint = command("train", "--recipe", "maml", "--dataset", "simulated-users", *words, code=1)
    assert says in complaint and "\n" not in complaint.strip()


def test_what_cannot_be_shown_is_one_line(command, tmp_path):
    assert "no recipe 'flagshp'" in command("recipes", "show", "flagshp", code=1)
    (tmp_path / "own.toml").write_text('name = "own"\nlearner = "nobody"\n')
    assert "no learner 'nobody'; there are" in command("recipes", "show", tmp_path / "own.toml", code=1)
