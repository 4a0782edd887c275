"""Training of one trial: the learner of a recipe alone, judged on meta-validation, stopped early if hopeless."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipelines.experiments.meta_validation import validation_of
from pipelines.experiments.recipe_learner import learner_of
from pipelines.experiments.recipe_race import race_recipe
from pipelines.experiments.training_inputs import TrainingInputs
from pipelines.experiments.training_run import fitting_recipe
from recsys_meta.core.errors import ConfigError, DivergedError
from recsys_meta.evaluation.evaluate_batch import metric_names
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.store.tracking.tuning import Direction, TrialStatus
from recsys_meta.training.recipe import Recipe, recipe_of
from recsys_meta.training.run_state import all_steps
from recsys_meta.training.trainer import TrainStep, fit, start_training

VALIDATIONS = 6
"""Validations of a trial that is bounded by a number of steps."""


@dataclass(frozen=True)
class TrialResult:
    """Result of a trial: its status, its best value on meta-validation, in the metric's own sign, and why it ended."""

    status: TrialStatus
    value: float | None = None
    reason: str | None = None


class TrialInterruption(Exception):
    """A trial was asked to stop."""


class TrialObserver(Protocol):
    """Observer of a trial, which may end it."""

    def should_stop(self) -> bool:
        """Return whether somebody asked to stop."""

    def on_step(self, step: TrainStep) -> None:
        """Take note of a step."""

    def is_hopeless(self, values: Sequence[float], step: int) -> bool:
        """Take note of the validations so far, the last after `step` steps; return whether to end the trial."""


def study_metric(inputs: TrainingInputs) -> tuple[str, Direction]:
    """Metric that trials are judged by, the first of the data's objective, and whether more or less of it is better."""
    metric = metric_names(inputs.data)[0]
    return metric, "minimize" if metric in LOWER_IS_BETTER else "maximize"


def trial_recipe(recipe: Recipe, inputs: TrainingInputs, steps: int | None) -> Recipe:
    """Recipe of a trial: as it is trained on the inputs, for at most `steps` steps, and without an ensemble.

    An ensemble's members do not depend on what is tuned and would cost more than the trial. Raises as `fitting_recipe`.
    """
    fitting = fitting_recipe(recipe, inputs)
    raw = fitting.model_dump(mode="json") | {"ensemble": {}}
    if steps is not None:
        most = min(steps, all_steps(fitting, len(inputs.split.train)))
        every = max(1, most // VALIDATIONS)
        if fitting.train.most_steps:
            every = min(every, fitting.train.validate_steps)
        raw["train"] |= {"most_steps": most, "validate_steps": every}
    return recipe_of(raw, where=f"trial of {recipe.name}")


def train_trial(recipe: Recipe, inputs: TrainingInputs, device: str, observer: TrialObserver) -> TrialResult:
    """Train the recipe of a trial; a run that diverges, or settings that do not go together, have failed."""
    sign = -1.0 if study_metric(inputs)[1] == "minimize" else 1.0
    values: list[float] = []

    def stop_if_asked(_: TrainStep) -> None:
        if observer.should_stop():
            raise TrialInterruption

    try:
        recipe = race_recipe(recipe, inputs, device, lambda _: None, stop_if_asked)
        learner = learner_of(recipe, inputs.data)
        rows = inputs.train_index.to(device)
        run = start_training(learner, recipe, inputs.data, rows, inputs.split.train, inputs.seed, device)
        for step in fit(run, validation_of(learner, inputs, recipe)):
            observer.on_step(step)
            if step.valid is not None:
                if not math.isfinite(step.valid):
                    return TrialResult("failed", reason=f"meta-validation after step {step.step} is not a number")
                values.append(sign * step.valid)
                is_over = bool(run.stop_reason) or step.step == step.steps
                if observer.is_hopeless(values, step.step) and not is_over:
                    return TrialResult("pruned", sign * run.best, f"below the median after step {step.step}")
            if step.step < step.steps:
                stop_if_asked(step)
    except TrialInterruption:
        return TrialResult("stopped", reason="interrupted")
    except (ConfigError, DivergedError) as error:
        return TrialResult("failed", reason=str(error))
    return TrialResult("finished", sign * run.best, run.stop_reason or None)
