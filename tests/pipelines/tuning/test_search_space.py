import pytest

from pipelines.tuning.recipe_keys import recipe_keys, with_values
from pipelines.tuning.search_space import find_search_space, fitted_space, parse_search_space, space_names
from pipelines.workspace import find_recipe, recipe_names
from recsys_meta.core.errors import ConfigError, NotFoundError
from recsys_meta.models.factory import build_predictor
from tests.pipelines.tuning.samples import SPACE, small_recipe


def check(recipe):
    """A recipe whose learner can be made; what a command overrides is not looked at here."""
    build_predictor(recipe.learner, recipe.config)
    return recipe


def fitted(raw, recipe=None):
    return fitted_space(parse_search_space(raw, "my.toml"), recipe or small_recipe(), check)


def test_a_space_is_laid_out_like_the_recipe_or_has_dotted_keys():
    nested = parse_search_space(SPACE, "x")
    config = {f"config.{k}": v for k, v in SPACE["config"].items()}
    others = {"train": {"rate": SPACE["train.rate"]}, "episodes": {"draw": SPACE["episodes.draw"]}}
    dotted = parse_search_space({**config, **others}, "x")
    assert list(nested.choices) == ["config.dims", "config.dropout", "episodes.draw", "train.rate"]
    assert nested.choices == dotted.choices
    assert parse_search_space(nested.as_json(), "x").choices == nested.choices


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_comes_with_the_project_has_a_space_of_which_every_end_can_be_trained(name):
    recipe = find_recipe(name)
    space = fitted_space(find_search_space(None, recipe), recipe, check)
    assert len(space.choices) >= 5
    for seen in (space.nearest({}), space.nearest({k.name: k.value for k in recipe_keys(recipe).values()})):
        check(with_values(recipe, seen))


def test_numbers_are_whole_where_the_key_takes_whole_numbers():
    space = fitted(
        {
            "config.dropout": {"low": 0, "high": 0.5},
            "config.decay": {"low": 1, "high": 3},
            "config.dims": {"low": 2, "high": 9},
        }
    )
    assert [type(space.choices[k].low) for k in sorted(space.choices)] == [float, int, float]
    assert space.nearest({"config.dims": 99, "config.dropout": -1.0}) == {
        "config.dims": 9, "config.dropout": 0.0, "config.decay": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({}, "has no keys"),
        ({"config.dims": {"low": 9, "high": 2}}, r"my\.toml: config\.dims: .*low must be less"),
        ({"config.dims": {"low": 0, "high": 2, "log": True}}, "begins above 0"),
        ({"config.dims": {"low": 1}}, "high: Field required"),
        ({"config.dims": {"low": 1, "high": 2, "step": 1}}, "step: .*not permitted"),
        ({"config.dims": {"low": True, "high": 2}}, "config.dims: low"),
        ({"config.dims": {"values": [3]}}, "at least 2"),
        ({"config.dims": {"values": [3, 3]}}, "given twice"),
        ({"config.dims": {"values": [3, {"a": 1}]}}, "values are texts"),
        ({"config.dims": 5, "train": {"rate": 3}}, r"config\.dims: expected .*; train\.rate: expected"),
        ({"config.dim": {"low": 1, "high": 2}}, r"'config\.dim'; do you mean 'config\.dims'\? There are .*train\.rate"),
        ({"confg.dims": {"low": 1, "high": 2}}, r"no key 'confg\.dims'; do you mean 'config\.dims'"),
        ({"train.epochs": {"low": 1, "high": 2}}, "'train.epochs' cannot be tuned: a run is as long as"),
        ({"train.validate_entities": {"low": 1, "high": 2}}, "cannot be tuned: it changes what trials are judged by"),
        ({"config.dims": {"low": 0, "high": 9}}, r"config\.dims = 0: .*greater than or equal to 1"),
        ({"config.dropout": {"low": 0.1, "high": 1.5}}, r"config\.dropout = 1\.5: "),
        ({"episodes.draw": {"values": ["log", "most"]}}, 'draw = "most"'),
        ({"config.dims": {"low": 0.5, "high": 9.5}}, "takes whole numbers"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_before_anything_is_trained(raw, says):
    with pytest.raises(ConfigError, match=says):
        fitted(raw)


def test_a_key_that_changes_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"episodes\.max_shots: changes nothing"):
        fitted_space(
            parse_search_space({"episodes.max_shots": {"low": 1, "high": 9}}, "x"),
            small_recipe(),
            lambda recipe: with_values(recipe, {"episodes.max_shots": 5}),
        )


def test_a_space_is_found_by_name_file_recipe_or_learner(tmp_path):
    assert "flagship" in space_names()
    assert find_search_space(None, small_recipe()).choices == find_search_space("flagship", small_recipe()).choices
    assert "config.hidden" in find_search_space(None, find_recipe("melu")).choices
    file = tmp_path / "mine.toml"
    file.write_text("[config]\ndims = { low = 1, high = 2 }\n")
    assert list(find_search_space(str(file), small_recipe()).choices) == ["config.dims"]
    file.write_text("[config\n")
    with pytest.raises(ConfigError, match=r"mine\.toml: cannot be read"):
        find_search_space(str(file), small_recipe())
    with pytest.raises(NotFoundError, match=r"there are .*flagship"):
        find_search_space("none", small_recipe())
    with pytest.raises(NotFoundError, match="--space FILE"):
        find_search_space(None, small_recipe(learner="nothing"))


def test_values_go_into_members_of_a_mixture_and_out_of_races():
    mixture = with_values(
        find_recipe("flagship-click"), {"config.members.1.config.latent": 5, "config.members.0.config.dims": 7}
    )
    assert mixture.config["members"][1]["config"]["latent"] == 5 and mixture.config["members"][0]["config"]["dims"] == 7
    raced = with_values(find_recipe("flagship"), {"config.dropout": 0.25})
    assert raced.config["dropout"] == 0.25 and all(list(s) == ["decay"] for s in raced.race.settings)
    settled = with_values(find_recipe("flagship"), {"config.dropout": 0.25, "config.decay": 1e-05})
    assert not any(settled.race.settings) and settled.config["decay"] == 1e-05
