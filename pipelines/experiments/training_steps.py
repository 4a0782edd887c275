"""Steps of a training run: its start or its last checkpoint, metrics in SQL, checkpoints, and a clean stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from pipelines.experiments.carried_start import choose_start
from pipelines.experiments.meta_validation import validation_of
from pipelines.experiments.recipe_learner import learner_of
from pipelines.experiments.run_spec import RunSpec
from pipelines.experiments.training_inputs import TrainingInputs
from pipelines.workspace import Workspace
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.core.types import Params
from recsys_meta.models.bundle import load_bundle
from recsys_meta.store.tracking import curriculum, runs
from recsys_meta.store.tracking.runs import MetricPoint
from recsys_meta.training.checkpoint import last_checkpoint, save_checkpoint
from recsys_meta.training.recipe import Recipe
from recsys_meta.training.trainer import (
    TrainingRun,
    TrainStep,
    Validate,
    fit,
    from_checkpoint,
    start_training,
    to_checkpoint,
)
from recsys_meta.training.training_group import TrainingGroup
from recsys_meta.training.warm_start import carry_parameters

GAP_EVERY = 5
"""Validations, at one of which the criterion is measured on meta-training tasks too: the gap is to be seen, not to be
chosen by, and it changes slowly."""

StepCallback = Callable[[TrainStep], None]
IsInterrupted = Callable[[], bool]


class TrainingInterruption(RecsysMetaError):
    """Training was stopped by a signal; the last checkpoint holds its state."""

    @classmethod
    def of(cls, spec: RunSpec, where: str) -> TrainingInterruption:
        """Build the error that says where a run was stopped and how it goes on."""
        return cls(f"stopped {where}; `recsys-meta train --resume {spec.id}` continues")


def start_or_resume(
    spec: RunSpec,
    inputs: TrainingInputs,
    folder: Path | None,
    group: TrainingGroup | None,
    notify: Callable[[str], None] = lambda _: None,
) -> TrainingRun:
    """Start the run, or go on from the last checkpoint of its folder; where there is no folder, from the one that the
    group's first process has."""
    device = spec.device if group is None else group.device(spec.device)
    learner, index = learner_of(spec.recipe, inputs.data), inputs.train_index.to(device)
    checkpoint = None if folder is None else last_checkpoint(folder)

    def carry(fresh: Params) -> Params:
        params, carried = carry_parameters(fresh, learner, load_bundle(Path(spec.warm_start)), inputs.data)
        notify(carried.describe())
        return choose_start(fresh, params, validation_of(learner, inputs, spec.recipe), notify)

    # A checkpoint holds all that was carried; others of a group are sent the parameters of the first process.
    is_carried = bool(spec.warm_start) and checkpoint is None and folder is not None
    run = start_training(
        learner,
        spec.recipe,
        inputs.data,
        index,
        inputs.split.train,
        spec.seed,
        device,
        group,
        carry if is_carried else None,
    )
    run.validates_start = bool(spec.warm_start)
    if group is not None:
        checkpoint = group.first_checkpoint(checkpoint)
    if checkpoint is not None:
        from_checkpoint(run, checkpoint)
    return run


def train_steps(
    workspace: Workspace,
    spec: RunSpec,
    run: TrainingRun,
    validate: Validate,
    validate_training: Validate,
    report: StepCallback | None,
    is_interrupted: IsInterrupted,
) -> None:
    """Train to the end with metrics and checkpoints. Raises TrainingInterruption after a signal, at the next step.

    With the first validation and every `GAP_EVERY`-th after it `validate_training` is recorded, the same criterion on
    meta-training tasks.
    """
    folder, keep = spec.folder(workspace), spec.recipe.train.keep
    for step in fit(run, validate):
        on_training = None
        if _is_gap_due(run, step):
            on_training = validate_training(run.whole_tables(run.current_params()))
        _record(workspace, spec, step, on_training)
        if _due(spec.recipe, step):
            save_checkpoint(folder, to_checkpoint(run), keep)
        if report is not None:
            report(step)
        is_stopped = is_interrupted() if run.group is None else run.group.any(is_interrupted())
        if is_stopped:
            save_checkpoint(folder, to_checkpoint(run), keep)
            raise TrainingInterruption.of(spec, f"at step {step.step} of {step.steps}")


def follow_steps(spec: RunSpec, run: TrainingRun, is_interrupted: IsInterrupted) -> None:
    """Take part in the steps that the group's first process takes with `train_steps`. Where tables are sharded it is
    sent this process's rows whenever it reads whole ones, after the last step too.

    Raises TrainingInterruption after a signal to any process.
    """
    assert run.group is not None, "only a process of a group follows another"
    is_sharded = run.shards is not None
    for step in fit(run, lambda _: 0.0):
        if is_sharded and _is_gap_due(run, step):
            run.whole_tables(run.current_params())
        if is_sharded and _due(spec.recipe, step):
            to_checkpoint(run)
        if run.group.any(is_interrupted()):
            if is_sharded:
                to_checkpoint(run)
            raise TrainingInterruption(f"stopped at step {step.step} of {step.steps}")
    if is_sharded:
        run.best_params_or_last()


def _is_gap_due(run: TrainingRun, step: TrainStep) -> bool:
    return step.valid is not None and (_validation_number(run, step) - 1) % GAP_EVERY == 0


def _validation_number(run: TrainingRun, step: TrainStep) -> int:
    """Number of the validation after a step, from 1; the same for a run that was resumed."""
    train = run.recipe.train
    interval = train.validate_steps if train.most_steps else run.epoch_steps * train.validate_every
    return -(-step.step // interval)


def _record(workspace: Workspace, spec: RunSpec, step: TrainStep, on_training: float | None) -> None:
    if step.buckets:
        with workspace.session() as session:
            curriculum.save_curriculum(session, spec.id, [(step.step, step.buckets)])
    if step.valid is None and not step.epoch_end and step.step % 10:
        return
    values = {"loss": step.loss, "gradient_norm": step.gradient, "epoch": float(step.epoch), **step.logs}
    values["tasks_per_second"] = step.tasks_per_second
    if step.valid is not None:
        values["valid"] = abs(step.valid)  # validation negates errors, so that higher is better
    if on_training is not None and math.isfinite(on_training):
        values["valid_on_training"] = abs(on_training)
    with workspace.session() as session:
        runs.log_metrics(session, [MetricPoint(spec.id, k, step.step, float(v)) for k, v in values.items()])


def _due(recipe: Recipe, step: TrainStep) -> bool:
    """True where a checkpoint is due: at the steps of `checkpoint_every`, and at each epoch or validation."""
    every = recipe.train.checkpoint_every
    is_end = step.valid is not None if recipe.train.most_steps else step.epoch_end
    return is_end or (every > 0 and step.step % every == 0)
