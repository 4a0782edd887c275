"""Race of a recipe's regularisations on the training inputs of a run, and what is taken over instead of one."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.experiments.meta_validation import validation_of
from pipelines.experiments.recipe_learner import learner_of
from pipelines.experiments.training_inputs import TrainingInputs
from pipelines.experiments.tuned_baselines import Notify
from recsys_meta.core.types import Params
from recsys_meta.models.bundle import Bundle
from recsys_meta.training.recipe import Recipe
from recsys_meta.training.regularization_race import run_race, settled_recipe
from recsys_meta.training.trainer import TrainingRun, TrainStep, Validate, start_training
from recsys_meta.training.warm_start import carry_parameters, trained_part


def race_recipe(
    recipe: Recipe,
    inputs: TrainingInputs,
    device: str,
    notify: Notify,
    after_step: Callable[[TrainStep], None] = lambda _: None,
    model: Bundle | None = None,
) -> Recipe:
    """Recipe with the setting that wins its race; without a race, or with equal settings alone, nothing is trained.

    `after_step` is called after each step of the race, and may raise to end it. With a `model` each setting is trained
    from its parameters, as the run will be.
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

        def carry(fresh: Params) -> Params:
            return fresh if model is None else carry_parameters(fresh, learner, model, inputs.data)[0]

        return start_training(learner, candidate, inputs.data, rows, split.train, seed, device, carry=carry)

    def validation(run: TrainingRun) -> Validate:
        return validation_of(run.learner, inputs, run.recipe)

    return settled_recipe(recipe, run_race(recipe, start, validation, after_step).best)


def inherited_recipe(recipe: Recipe, inputs: TrainingInputs, model: Bundle, notify: Notify) -> Recipe:
    """Recipe with what its race would choose as the model was trained with, so that no race is held.

    Raises ConfigError for a model of another learner.
    """
    raced = sorted({key for setting in recipe.race.settings for key in setting})
    if not raced:
        return recipe
    predictor, _ = trained_part(model, learner_of(recipe, inputs.data))
    config = predictor.config.model_dump(mode="json")
    setting = {key: config[key] for key in raced}
    values = ", ".join(f"{key}={value}" for key, value in setting.items())
    notify(f"no race of {recipe.name}: {values} as the model {model.version} was trained with")
    return settled_recipe(recipe, setting)
