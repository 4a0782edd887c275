"""Ensemble of a training run: the trained learner and the baselines that its recipe offers as members."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.experiments.method_failures import reason_of
from pipelines.experiments.training_inputs import TrainingInputs, default_shots
from pipelines.experiments.training_steps import TrainingInterruption
from pipelines.experiments.tuned_baselines import TunedBaselines, baselines_for, is_installed
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import Params
from recsys_meta.evaluation.ensemble import FittedEnsemble, fit_ensemble
from recsys_meta.models.baselines import make_baseline
from recsys_meta.models.protocols import Learner
from recsys_meta.training.recipe import Recipe


@dataclass(frozen=True)
class EnsembleResult:
    """Ensemble of a run, None where the learner stands alone, and what its user should know."""

    ensemble: FittedEnsemble | None = None
    warnings: tuple[str, ...] = ()


def check_members(recipe: Recipe, data: Dataset) -> None:
    """Raise NotFoundError for a member that is no baseline, ConfigError for members of a predictor of choices."""
    for name in recipe.ensemble.members:
        make_baseline(name)
    if data.schema.objective == "choice" and _applicable_members(recipe, data):
        raise ConfigError("predictors of choices cannot be members of an ensemble; leave [ensemble] out of the recipe")


def fit_run_ensemble(
    learner: Learner,
    params: Params,
    recipe: Recipe,
    inputs: TrainingInputs,
    tuned: TunedBaselines,
    *,
    stop_if_interrupted: Callable[[], None] = lambda: None,
) -> EnsembleResult:
    """Tune the members of a recipe and weigh them beside its trained learner.

    A member whose library is not installed, or that cannot be tuned, is left out, and without a member or a
    meta-validation entity that has enough rows the learner stands alone; warnings say so. `stop_if_interrupted` is
    called before each member is tuned and before they are weighed, and may raise.
    """
    data, shots = inputs.data, default_shots(inputs.data, inputs.scenario)
    applicable = _applicable_members(recipe, data)
    names = [name for name in applicable if is_installed(name)]
    warnings = [
        f"'{name}' is no member of the ensemble: it needs the library {make_baseline(name).requires}, which is not "
        "installed; run: pip install 'recsys-meta[baselines]'"
        for name in applicable
        if name not in names
    ]
    if not names:
        return EnsembleResult(None, tuple(warnings))
    if not _has_validation_episodes(inputs, shots):
        warnings.append("no meta-validation entity has enough rows to weigh members on: the learner stands alone")
        return EnsembleResult(None, tuple(warnings))
    baselines = {}
    for name in names:
        stop_if_interrupted()
        try:
            baselines[name] = tuned.tune(name, shots)
        except TrainingInterruption:
            raise
        except Exception as error:  # whatever it is, the learner that was trained must not be lost by it
            reason = reason_of(error, f"{name}, member of {recipe.name}")
            warnings.append(f"'{name}' is no member of the ensemble: it cannot be tuned: {reason}")
        else:
            warnings += tuned.warnings(name)
    if not baselines:
        return EnsembleResult(None, tuple(warnings))
    stop_if_interrupted()
    tuned.notify(f"weighing {len(baselines)} members")
    ensemble = fit_ensemble(
        learner,
        params,
        baselines,
        data,
        inputs.train_index.to("cpu"),
        inputs.split.valid,
        shots=shots,
        seed=inputs.seed,
    )
    return EnsembleResult(ensemble, tuple(warnings))


def _applicable_members(recipe: Recipe, data: Dataset) -> list[str]:
    """Members of a recipe that serve the objective and have their input."""
    applicable = baselines_for(data, None)
    return [name for name in recipe.ensemble.members if name in applicable]


def _has_validation_episodes(inputs: TrainingInputs, shots: tuple[int, ...]) -> bool:
    schema, valid = inputs.data.schema, inputs.split.valid
    return any(
        inputs.train_index.has_support(valid, k, schema.min_query, schema.query_from).any() for k in shots if len(valid)
    )
