"""Short races of a recipe with different regularisation, judged on meta-validation: how much noise and decay data need
depends on how much of it there is, and no constant serves all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recsys_meta.core.errors import DivergedError
from recsys_meta.training.recipe import Recipe, recipe_of
from recsys_meta.training.run_state import TrainingRun
from recsys_meta.training.trainer import TrainStep, Validate, fit


@dataclass(frozen=True)
class RaceResult:
    """Settings of the learner that a race tried, and the best value that each reached on meta-validation."""

    settings: tuple[dict[str, Any], ...]
    values: tuple[float, ...]

    @property
    def best(self) -> dict[str, Any]:
        """Settings with the highest value; the first of equal ones."""
        return self.settings[max(range(len(self.values)), key=lambda i: self.values[i])]


def race_recipes(recipe: Recipe) -> list[Recipe]:
    """Recipes of a race: those of the recipe's settings, cut to its steps. Raises ConfigError for a wrong setting."""
    raw = recipe.model_dump(mode="json")
    train = raw["train"] | {"most_steps": recipe.race.steps, "validate_steps": recipe.race.steps, "patience": 1}
    return [
        recipe_of(raw | {"config": raw["config"] | setting, "train": train, "race": {}}, where=f"race of {recipe.name}")
        for setting in recipe.race.settings
    ]


def run_race(
    recipe: Recipe,
    start: Callable[[Recipe], TrainingRun],
    validation: Callable[[TrainingRun], Validate],
    after_step: Callable[[TrainStep], None] = lambda _: None,
) -> RaceResult:
    """Train with each of the race's settings for its steps; a run that diverges loses.

    `after_step` is called after each step, and may raise to end the race.
    """
    values = [_final_value(start(candidate), validation, after_step) for candidate in race_recipes(recipe)]
    return RaceResult(tuple(dict(s) for s in recipe.race.settings), tuple(values))


def settled_recipe(recipe: Recipe, setting: dict[str, Any]) -> Recipe:
    """Recipe with a setting of its race, which is then over: a resume changes nothing."""
    raw = recipe.model_dump(mode="json")
    return recipe_of(
        raw | {"config": raw["config"] | setting, "race": {}}, where=f"recipe {recipe.name} after its race"
    )


def _final_value(
    run: TrainingRun, validation: Callable[[TrainingRun], Validate], after_step: Callable[[TrainStep], None]
) -> float:
    try:
        for step in fit(run, validation(run)):
            after_step(step)
    except DivergedError:
        return float("-inf")
    return run.best
