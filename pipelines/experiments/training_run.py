"""Training run from start to bundle: progress, metrics in SQL, checkpoints, resume, clean stop."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from pipelines.experiments.training_inputs import ACTOR_SHOTS, TrainingInputs, default_shots, training_inputs
from pipelines.experiments.tuned_baselines import TunedBaselines, baselines_for
from pipelines.workspace import Workspace, find_recipe, recipe_names
from recsys_meta import __version__
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import CheckpointError, ConfigError, NotFoundError, RecsysMetaError
from recsys_meta.core.types import IntArray, Params, TaskBatch
from recsys_meta.episodes.event_index import EventIndex, order_rows
from recsys_meta.episodes.splits import EntitySplit
from recsys_meta.evaluation.cold_start import cold_start, episodes_at
from recsys_meta.evaluation.ensemble import FittedEnsemble, MemberShare, fit_ensemble
from recsys_meta.evaluation.evaluate_batch import is_row_metric, metric_names
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.models.baselines import make_baseline
from recsys_meta.models.bundle import Bundle, load_bundle, make_bundle, save_bundle
from recsys_meta.models.factory import build_predictor
from recsys_meta.models.learners import LEARNERS
from recsys_meta.models.protocols import Learner
from recsys_meta.store.tracking import curriculum, runs
from recsys_meta.store.tracking.runs import MetricPoint
from recsys_meta.training.checkpoint import last_checkpoint, save_checkpoint
from recsys_meta.training.curricula import make_curriculum
from recsys_meta.training.recipe import Recipe, recipe_of
from recsys_meta.training.regularization_race import race_recipes, run_race, settled_recipe
from recsys_meta.training.trainer import (
    TrainingRun,
    TrainStep,
    Validate,
    fit,
    from_checkpoint,
    start_training,
    task_pool,
    to_checkpoint,
)

StepCallback = Callable[[TrainStep], None]
Notify = Callable[[str], None]

VALIDATION_ROWS = 500
"""Most query rows of a meta-validation entity, where metrics are of rows."""


@dataclass(frozen=True)
class RunSpec:
    """Specification of a run, written to run.json before the first step; a resume needs nothing else."""

    id: str
    recipe: Recipe
    dataset: str
    digest: str
    seed: int
    device: str
    threads: int
    split: str = "seed"
    scenario: str = "new"

    def folder(self, workspace: Workspace) -> Path:
        """Folder of the run's files."""
        return workspace.settings.runs / self.id


@dataclass(frozen=True)
class TrainingResult:
    """Result of a finished run. `seconds` count from its start, or from its resumption at step `resumed_at`."""

    spec: RunSpec
    folder: Path
    steps: int
    seconds: float
    resumed_at: int
    best: float | None
    stop_reason: str
    bundle: Bundle
    shares: tuple[MemberShare, ...] = ()
    warnings: tuple[str, ...] = ()


class TrainingInterruption(RecsysMetaError):
    """Training was stopped by a signal; the last checkpoint holds its state."""


def default_threads() -> int:
    """Number of threads: two where the machine has them, as a step of these models is too small to occupy more."""
    return min(2, os.cpu_count() or 1)


def train_run(
    workspace: Workspace,
    recipe: Recipe,
    inputs: TrainingInputs,
    *,
    device: str = "cpu",
    threads: int | None = None,
    report: StepCallback | None = None,
    tuned: TunedBaselines | None = None,
    notify: Notify = lambda _: None,
) -> TrainingResult:
    """Train a recipe as a new run and return its bundle.

    Scenario "new" trains on all rows of the training entities, "corners" on those that no cell of the warm-cold grid
    evaluates, "actors" on actor episodes. Raises ConfigError, before the run is recorded, for a learner or a curriculum
    that is unknown, wrongly configured or does not serve the objective. `tuned` holds baselines that the caller shares
    with other runs on the same inputs.
    """
    data = inputs.data
    recipe = recipe.suited(len(inputs.split.train))
    if inputs.scenario == "actors":
        recipe = recipe_of({**recipe.model_dump(mode="json"), "few": {}}, [f"episodes.max_shots={max(ACTOR_SHOTS)}"])
    _check_recipe(recipe, inputs)
    with fixed_threads(threads or default_threads()):
        recipe = _race(recipe, inputs, device, notify)
    with workspace.session() as session:
        row = runs.start_run(
            session,
            recipe=recipe.name,
            dataset=data.schema.name,
            learner=recipe.learner,
            config=recipe.model_dump(mode="json"),
            seed=inputs.seed,
            device=device,
            code_version=__version__,
        )
        run_id = row.id
    spec = RunSpec(
        run_id,
        recipe,
        inputs.source,
        data.digest,
        inputs.seed,
        device,
        threads or default_threads(),
        inputs.split_by,
        inputs.scenario,
    )
    content = {**spec.__dict__, "recipe": recipe.model_dump(mode="json")}
    write_file(spec.folder(workspace) / "run.json", json.dumps(content, indent=1).encode())
    return _execute(workspace, spec, inputs, report, tuned or TunedBaselines(inputs, notify))


def _race(recipe: Recipe, inputs: TrainingInputs, device: str, notify: Notify) -> Recipe:
    """Recipe with the setting that wins its race; unchanged without a race, or with one setting alone."""
    settings = [dict(s) for s in recipe.race.settings]
    if all(s == settings[0] for s in settings):
        return settled_recipe(recipe, settings[0]) if settings else recipe
    rows, split, seed = inputs.train_index.to(device), inputs.split, inputs.seed

    def start(candidate: Recipe) -> TrainingRun:
        notify(f"race of {recipe.name}: {', '.join(f'{k}={candidate.config[k]}' for k in settings[0])}")
        learner = learner_of(candidate, inputs.data)
        return start_training(learner, candidate, inputs.data, rows, split.train, seed, device)

    def validation(run: TrainingRun) -> Validate:
        return _validation(run.learner, inputs, run.recipe)

    result = run_race(recipe, start, validation)
    return settled_recipe(recipe, result.best)


def _check_recipe(recipe: Recipe, inputs: TrainingInputs) -> None:
    """Build the learners and the curriculum once, for their errors alone."""
    learner_of(recipe, inputs.data)
    for candidate in race_recipes(recipe):
        learner_of(candidate, inputs.data)
    for name in recipe.ensemble.members:
        make_baseline(name)
    pool = task_pool(recipe, inputs.train_index, inputs.split.train)
    make_curriculum(recipe.curriculum.name, pool, recipe.curriculum.config)


def resume_run(
    workspace: Workspace, run_id: str, report: StepCallback | None = None, notify: Notify = lambda _: None
) -> TrainingResult:
    """Continue a run from its last whole checkpoint, bit for bit. Raises NotFoundError, CheckpointError."""
    spec = read_run_spec(workspace, run_id)
    data, _ = workspace.dataset(spec.dataset)
    if data.digest != spec.digest:
        raise CheckpointError(f"run {run_id} was made from other data than {spec.dataset} holds now")
    inputs = training_inputs(data, spec.dataset, scenario=spec.scenario, split=spec.split, seed=spec.seed)
    with workspace.session() as session:
        runs.set_run_status(session, run_id, "running")
    return _execute(workspace, spec, inputs, report, TunedBaselines(inputs, notify))


def read_run_spec(workspace: Workspace, run_id: str) -> RunSpec:
    """Read the specification of a run. Raises NotFoundError, or CheckpointError if run.json is damaged."""
    path = workspace.settings.runs / run_id / "run.json"
    if Path(run_id).name != run_id or not path.is_file():
        raise NotFoundError(f"no run '{run_id}' under {workspace.settings.runs}; `recsys-meta runs list` shows them")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return RunSpec(**{**content, "recipe": recipe_of(content["recipe"], where=str(path))})
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__})") from None


def _execute(
    workspace: Workspace,
    spec: RunSpec,
    inputs: TrainingInputs,
    report: StepCallback | None,
    tuned: TunedBaselines,
) -> TrainingResult:
    """Train with the run's number of threads, and record its end whatever it is."""
    try:
        with fixed_threads(spec.threads):
            return _train(workspace, spec, inputs, report, tuned)
    except TrainingInterruption as reason:
        _close(workspace, spec, "stopped", str(reason))
        raise
    except (RecsysMetaError, KeyboardInterrupt) as reason:
        _close(workspace, spec, "failed", str(reason) or "interrupted")
        raise
    except Exception as error:
        _close(workspace, spec, "failed", f"unexpected {type(error).__name__}")
        raise


def _train(
    workspace: Workspace,
    spec: RunSpec,
    inputs: TrainingInputs,
    report: StepCallback | None,
    tuned: TunedBaselines,
) -> TrainingResult:
    folder, data, split = spec.folder(workspace), inputs.data, inputs.split
    train_rows = inputs.train_index.to(spec.device)
    learner = learner_of(spec.recipe, data)
    run = start_training(learner, spec.recipe, data, train_rows, split.train, spec.seed, spec.device)
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        from_checkpoint(run, checkpoint)
    resumed_at = run.step
    start = time.perf_counter()
    _train_steps(workspace, spec, run, _validation(learner, inputs, spec.recipe), report)
    best = abs(run.best) if np.isfinite(run.best) else None
    # Validation and calibration use a few hundred entities: the CPU is fast enough, wherever training ran.
    params = learner.calibrate({k: v.cpu() for k, v in run.best_params_or_last().items()}, _episodes(inputs, spec))
    ensemble = _fit_ensemble(learner, params, spec, inputs, tuned)
    bundle = _bundle(spec, data, train_rows, split, run, params, ensemble)
    bundle_folder = save_bundle(bundle, folder / "bundle")
    _close(workspace, spec, "finished", run.stop_reason or None)
    return TrainingResult(
        spec,
        folder,
        run.step,
        time.perf_counter() - start,
        resumed_at,
        best,
        run.stop_reason,
        load_bundle(bundle_folder),
        () if ensemble is None else ensemble.shares,
        tuple(w for name in _member_names(spec.recipe, data) for w in tuned.warnings(name)),
    )


def _fit_ensemble(
    learner: Learner, params: Params, spec: RunSpec, inputs: TrainingInputs, tuned: TunedBaselines
) -> FittedEnsemble | None:
    """Ensemble of the trained learner and the recipe's baselines; None for a recipe without."""
    data, shots = inputs.data, default_shots(inputs.data, spec.scenario)
    names = _member_names(spec.recipe, data)
    if not names:
        return None
    return fit_ensemble(
        learner,
        params,
        {name: tuned.tune(name, shots) for name in names},
        data,
        inputs.train_index.to("cpu"),
        inputs.split.valid,
        shots=shots,
        seed=spec.seed,
    )


def _member_names(recipe: Recipe, data: Dataset) -> list[str]:
    """Baselines that a recipe offers to its ensemble, as far as they serve the objective and have their input."""
    applicable = baselines_for(data, None)
    return [name for name in recipe.ensemble.members if name in applicable]


def _train_steps(
    workspace: Workspace, spec: RunSpec, run: TrainingRun, validate: Validate, report: StepCallback | None
) -> None:
    """Train to the end with metrics and checkpoints. Raises TrainingInterruption after a signal, at the next step."""
    folder, keep = spec.folder(workspace), spec.recipe.train.keep
    with _interruption() as is_interrupted:
        for step in fit(run, validate):
            _record(workspace, spec, step)
            if _due(spec.recipe, step):
                save_checkpoint(folder, to_checkpoint(run), keep)
            if report is not None:
                report(step)
            if is_interrupted() and step.step < step.steps:
                save_checkpoint(folder, to_checkpoint(run), keep)
                raise TrainingInterruption(
                    f"stopped at step {step.step} of {step.steps}; `recsys-meta train --resume {spec.id}` continues"
                )


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


def _validation(learner: Learner, inputs: TrainingInputs, recipe: Recipe) -> Validate:
    data = inputs.data
    entities = _validation_entities(inputs, recipe)
    metric = metric_names(data)[0]
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    cpu_rows = inputs.train_index.to("cpu")

    def validate(params: Params) -> float:
        cpu_params = {k: v.cpu() for k, v in params.items()}
        curve = cold_start(
            learner,
            cpu_params,
            data,
            cpu_rows,
            entities,
            shots=default_shots(data, inputs.scenario),
            seed=inputs.seed,
            chunk=128,
            max_rows=VALIDATION_ROWS,
            lists=False,
        )
        return sign * curve.mean(metric)

    return validate


def _validation_entities(inputs: TrainingInputs, recipe: Recipe) -> IntArray:
    """At most `validate_entities` of the meta-validation entities, by the run's seed."""
    count, valid = recipe.train.validate_entities, inputs.split.valid
    if len(valid) <= count:
        return valid
    return np.random.default_rng(inputs.seed).choice(valid, count, replace=False)


def _episodes(inputs: TrainingInputs, spec: RunSpec) -> list[TaskBatch]:
    """Meta-validation episodes to calibrate on, a batch for each support size that some entity reaches."""
    data = inputs.data
    index = order_rows(inputs.train_index.to("cpu"), data.schema.order, spec.seed)
    entities = np.sort(_validation_entities(inputs, spec.recipe))
    least, begin = data.schema.min_query, data.schema.query_from
    parts = {k: entities[index.has_support(entities, k, least, begin)] for k in default_shots(data, spec.scenario)}
    max_rows = VALIDATION_ROWS if is_row_metric(data) else None
    return [episodes_at(data, index, part, k, max_rows, spec.seed) for k, part in parts.items() if len(part)]


def _record(workspace: Workspace, spec: RunSpec, step: TrainStep) -> None:
    if step.buckets:
        with workspace.session() as session:
            curriculum.save_curriculum(session, spec.id, [(step.step, step.buckets)])
    if step.valid is None and not step.epoch_end and step.step % 10:
        return
    values = {"loss": step.loss, "gradient_norm": step.gradient, "epoch": float(step.epoch), **step.logs}
    values["tasks_per_second"] = step.tasks_per_second
    if step.valid is not None:
        values["valid"] = abs(step.valid)  # validation negates errors, so that higher is better
    with workspace.session() as session:
        runs.log_metrics(session, [MetricPoint(spec.id, k, step.step, float(v)) for k, v in values.items()])


def _due(recipe: Recipe, step: TrainStep) -> bool:
    """True where a checkpoint is due: at the steps of `checkpoint_every`, and at each epoch or validation."""
    every = recipe.train.checkpoint_every
    is_end = step.valid is not None if recipe.train.most_steps else step.epoch_end
    return is_end or (every > 0 and step.step % every == 0)


def _bundle(
    spec: RunSpec,
    data: Dataset,
    rows: EventIndex,
    split: EntitySplit,
    run: TrainingRun,
    params: Params,
    ensemble: FittedEnsemble | None,
) -> Bundle:
    # Without the run's id and paths: equal weights have an equal version, wherever they were trained.
    about = {
        "recipe": spec.recipe.name,
        "dataset": data.schema.name,
        "seed": spec.seed,
        "split": spec.split,
        "metrics": {"valid": abs(run.best) if np.isfinite(run.best) else None, "steps": run.step},
    }
    if spec.scenario != "new":
        about["scenario"] = spec.scenario
    if ensemble is None:
        return make_bundle(run.learner, params, data, rows, split.train, about)
    about["ensemble"] = {s.name: {str(k): round(v, 4) for k, v in s.shares.items()} for s in ensemble.shares}
    return make_bundle(ensemble.predictor, ensemble.params, data, rows, split.train, about)


def _close(workspace: Workspace, spec: RunSpec, status: runs.Status, reason: str | None) -> None:
    with workspace.session() as session:
        runs.set_run_status(session, spec.id, status, reason=reason)


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Fix the number of threads of torch and BLAS: sums have the same order, so that a resume is bit-exact."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _interruption() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag; a second one interrupts at once."""
    is_requested = False

    def request(number: int, _: FrameType | None) -> None:
        nonlocal is_requested
        if is_requested:
            raise KeyboardInterrupt
        is_requested = True

    try:
        before = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: the caller owns the signals
        before = {}
    try:
        yield lambda: is_requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
