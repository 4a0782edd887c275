"""Race of a recipe's regularisations on the training inputs of a run."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.experiments.meta_validation import validation_of
from pipelines.experiments.recipe_learner import learner_of
from pipelines.experiments.training_inputs import TrainingInputs
from pipelines.experiments.tuned_baselines import Notify
from recsys_meta.training.recipe import Recipe
from recsys_meta.training.regularization_race import run_race, settled_recipe
from recsys_meta.training.trainer import TrainingRun, TrainStep, Validate, start_training


def race_recipe(
    recipe: Recipe,
    inputs: TrainingInputs,
    device: str,
    notify: Notify,
    after_step: Callable[[TrainStep], None] = lambda _: None,
) -> Recipe:
    """Recipe with the setting that wins its race; without a race, or with equal settings alone, nothing is trained.

    `after_step` is called after each step of the race, and may raise to end it.
    """
    settings = [dict(s) for s in recipe.race.settings]
    if all(s == settings[0] for s in settings):
        return settled_recipe(recipe, settings[0]) if settings else recipe
    rows, split, seed = inputs.train_index.to(device), inputs.split, inputs.seed
    raced = {key for setting in settings for key in setting}

    def start(candidate: Recipe) -> TrainingRun:
        values = (f"{key}={candidate.config[key]}" for key in sorted(raced & set(candidate.config)))
        notify(f"race of {recipe.name}: {recipe.race.steps} steps with {', '.join(values)}")
        learner = learner_of(candidate, inputs.data)
        return start_training(learner, candidate, inputs.data, rows, split.train, seed, device)

    def validation(run: TrainingRun) -> Validate:
        return validation_of(run.learner, inputs, run.recipe)

    return settled_recipe(recipe, run_race(recipe, start, validation, after_step).best)
