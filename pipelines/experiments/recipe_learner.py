"""Learner of a recipe for a data set."""

from __future__ import annotations

from pipelines.workspace import find_recipe, recipe_names
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST
from recsys_meta.models.factory import build_predictor
from recsys_meta.models.learners import LEARNERS
from recsys_meta.models.protocols import Learner
from recsys_meta.training.recipe import Recipe

MOST_SOFTMAX_ITEMS = 50_000
"""Items up to which a learner's softmax is over the whole catalogue, unless the recipe says otherwise. With more a step
takes eleven times as long and longer; with half as many it takes three times as long and learns more."""
NEGATIVES = 4096
"""Items that a softmax over a larger catalogue is sampled with."""


def needs_sampled_softmax(recipe: Recipe, data: Dataset) -> bool:
    """Return True for a recipe that leaves open how the softmax of its learner is made, over a large catalogue."""
    is_large = data.schema.objective == "ranking" and data.catalogue - FIRST > MOST_SOFTMAX_ITEMS
    if not is_large or "negatives" in recipe.config:
        return False
    return getattr(learner_of(recipe, data).config, "negatives", None) == 0


def learner_of(recipe: Recipe, data: Dataset) -> Learner:
    """Build the learner of a recipe, with the data's objective unless the recipe sets one.

    Raises ConfigError for a learner that is unknown, wrongly configured, a baseline, or does not serve the objective.
    """
    objective, objectives = data.schema.objective, getattr(LEARNERS.get(recipe.learner), "objectives", None)
    if objectives is not None and objective not in objectives:
        raise ConfigError(
            f"'{recipe.learner}' serves objective {' or '.join(sorted(objectives))}, "
            f"but '{data.schema.name}' has '{objective}'; use {' or '.join(_recipes_for_objective(objective))}"
        )
    config = dict(recipe.config)
    config.setdefault("objective", objective)
    learner = build_predictor(recipe.learner, config)
    if not hasattr(learner, "meta_loss"):
        raise ConfigError(f"'{recipe.learner}' is a baseline; it is fitted, not trained")
    return learner  # type: ignore[return-value]


def _recipes_for_objective(objective: str) -> list[str]:
    """Options that name the project's recipes for an objective."""
    recipes = [(n, getattr(LEARNERS.get(find_recipe(n).learner), "objectives", ())) for n in recipe_names()]
    return [f"--recipe {name}" for name, objectives in recipes if objective in objectives] or ["another data set"]
