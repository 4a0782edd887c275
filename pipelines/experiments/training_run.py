"""Training run from start to bundle: progress, metrics in SQL, checkpoints, resume, clean stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipelines.experiments.comparison import Comparison
from pipelines.experiments.comparison_storage import store_comparison
from pipelines.experiments.interruption import interruption
from pipelines.experiments.meta_validation import (
    calibration_episodes,
    dislike_episodes,
    training_criterion,
    validation_entities,
    validation_of,
    with_meeting_slope,
)
from pipelines.experiments.new_item_validation import with_new_item_choices
from pipelines.experiments.recipe_learner import NEGATIVES, learner_of, needs_sampled_softmax
from pipelines.experiments.recipe_race import inherited_recipe, race_recipe
from pipelines.experiments.run_archive import write_run_archive
from pipelines.experiments.run_ensemble import check_members, fit_run_ensemble
from pipelines.experiments.run_spec import RunSpec, open_run_inputs, read_run_spec, run_lock
from pipelines.experiments.shared_entities import describe_overlap
from pipelines.experiments.thread_count import default_threads, fixed_threads
from pipelines.experiments.training_inputs import ACTOR_SHOTS, TrainingInputs
from pipelines.experiments.training_steps import (
    IsInterrupted,
    StepCallback,
    TrainingInterruption,
    follow_steps,
    start_or_resume,
    train_steps,
)
from pipelines.experiments.tuned_baselines import Notify, TunedBaselines
from pipelines.experiments.validation_curve import measure_validation
from pipelines.workspace import Workspace
from recsys_meta import __version__
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import CheckpointError, RecsysMetaError
from recsys_meta.core.types import FIRST, Params
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import EntitySplit
from recsys_meta.evaluation.ensemble import FittedEnsemble, MemberShare
from recsys_meta.models.bundle import Bundle, load_bundle, make_bundle, save_bundle
from recsys_meta.models.protocols import DislikeLearner
from recsys_meta.store.tracking import runs
from recsys_meta.training.curricula import make_curriculum
from recsys_meta.training.recipe import Recipe, recipe_of
from recsys_meta.training.regularization_race import race_recipes
from recsys_meta.training.shard_plan import shard_tables
from recsys_meta.training.task_augmentation import check_augmentation
from recsys_meta.training.trainer import TrainingRun, task_pool
from recsys_meta.training.training_group import TrainingGroup
from recsys_meta.training.warm_start import trained_part


@dataclass(frozen=True)
class TrainingResult:
    """Result of a finished run. `seconds` count from its start, or from its resumption at step `resumed_at`.

    `validation` is what adapting did for meta-validation entities, where that was measured.
    """

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
    carried: str = ""
    validation: Comparison | None = None

    @property
    def bundle_folder(self) -> Path:
        """Folder of the bundle."""
        return self.folder / "bundle" / self.bundle.version


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
    group: TrainingGroup | None = None,
    warm_start: Path | None = None,
    race: bool | None = None,
    measure: bool = True,
    begun: Callable[[RunSpec], None] = lambda _: None,
) -> TrainingResult:
    """Train a recipe as a new run and return its bundle. With a group this is its first process; see `follow_run`.

    Scenario "new" trains on all rows of the training entities, "corners" on those that no cell of the warm-cold grid
    evaluates, "actors" on actor episodes. Raises ConfigError, before the run is recorded, for a learner or a curriculum
    that is unknown, wrongly configured or does not serve the objective, or for a group of more processes than a step
    has tasks. `warm_start` is the folder of a bundle to start from; one of another learner raises ConfigError too.
    What the recipe's race would choose is then as that model was trained with, unless there is a `race`: by default
    only where the model is of another data set.
    `tuned` holds baselines that the caller shares with other runs on the same inputs. Unless `measure` is off, since
    the caller evaluates the model itself, its curves on meta-validation are measured and stored. `begun` is called
    with what was written of the run, from where on it can be resumed.
    """
    data = inputs.data
    recipe = fitting_recipe(recipe, inputs, notify)
    model = None if warm_start is None else load_bundle(warm_start)
    if model is not None:
        trained_part(model, learner_of(recipe, data))
        race = model.schema.name != data.schema.name if race is None else race
    if group is not None:
        group.check_tasks(recipe.train.tasks)
    threads = threads or default_threads(1 if group is None else group.local_size)
    with fixed_threads(threads):
        if model is not None and not race:
            recipe = inherited_recipe(recipe, inputs, model, notify)
        else:
            on = device if group is None else group.device(device)
            recipe = race_recipe(recipe, inputs, on, notify, model=model)
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
        threads,
        inputs.split_by,
        inputs.scenario,
        "" if warm_start is None else str(warm_start.resolve()),
    )
    folder = spec.folder(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    with run_lock(workspace, spec):
        write_file(folder / "run.json", spec.dump().encode())
        begun(spec)
        result = _execute(workspace, spec, inputs, report, tuned or TunedBaselines(inputs, notify), group, measure)
    warning = None if model is None else describe_overlap(model, inputs)
    return result if warning is None else replace(result, warnings=(*result.warnings, warning))


def fitting_recipe(recipe: Recipe, inputs: TrainingInputs, notify: Notify = lambda _: None) -> Recipe:
    """Recipe as it is trained on the inputs of a run: with a sampled softmax where the catalogue is large and the
    recipe leaves that open.

    Raises ConfigError for a learner, a member or a curriculum that is unknown, wrongly configured or does not serve the
    objective.
    """
    if inputs.scenario == "actors":
        recipe = recipe_of(recipe.model_dump(mode="json"), [f"episodes.max_shots={max(ACTOR_SHOTS)}"])
    _check_recipe(recipe, inputs)
    if needs_sampled_softmax(recipe, inputs.data):
        notify(f"{inputs.data.catalogue - FIRST:,} items: {recipe.name} learns by a softmax over {NEGATIVES:,} of them")
        recipe = recipe_of(recipe.model_dump(mode="json"), [f"config.negatives={NEGATIVES}"])
    looked_at, asked = len(validation_entities(inputs, recipe)), recipe.train.validate_entities
    if looked_at < min(asked, len(inputs.split.valid)):
        notify(
            f"{inputs.data.catalogue - FIRST:,} items: {looked_at} meta-validation entities are looked at, not "
            f"{asked}, each with a ranking of the whole catalogue"
        )
    return recipe


def _check_recipe(recipe: Recipe, inputs: TrainingInputs) -> None:
    """Build the learners and the curriculum once, for their errors alone."""
    learner_of(recipe, inputs.data)
    for candidate in race_recipes(recipe):
        learner_of(candidate, inputs.data)
    check_members(recipe, inputs.data)
    check_augmentation(recipe.augmentation, inputs.data.schema.objective)
    pool = task_pool(recipe, inputs.train_index, inputs.split.train)
    make_curriculum(recipe.curriculum.name, pool, recipe.curriculum.config)


def resume_run(
    workspace: Workspace,
    run_id: str,
    report: StepCallback | None = None,
    notify: Notify = lambda _: None,
    group: TrainingGroup | None = None,
) -> TrainingResult:
    """Continue a run from its last whole checkpoint, bit for bit; with another number of processes up to rounding.

    With a group this is its first process. Raises NotFoundError, CheckpointError.
    """
    spec = read_run_spec(workspace, run_id)
    inputs = open_run_inputs(workspace, spec)
    if group is not None:
        group.check_tasks(spec.recipe.train.tasks)
    with run_lock(workspace, spec):
        with workspace.session() as session:
            runs.set_run_status(session, run_id, "running")
        return _execute(workspace, spec, inputs, report, TunedBaselines(inputs, notify), group, measure=True)


def follow_run(workspace: Workspace, group: TrainingGroup) -> None:
    """Take part in the steps of the run that the group's first process starts or resumes; that one alone validates,
    records and writes. It says which run it is, so nothing is read here but the data.

    Raises CheckpointError if the data here are not those of the run, TrainingInterruption when it is stopped, and
    ProcessGroupError if a process of the group has ended.
    """
    spec = RunSpec.parse(group.first_text(""), "the specification of the run")
    inputs = open_run_inputs(workspace, spec)
    with fixed_threads(spec.threads), interruption() as is_interrupted:
        run = start_or_resume(spec, inputs, None, group)
        shard_tables(run)
        follow_steps(spec, run, is_interrupted)


def _execute(
    workspace: Workspace,
    spec: RunSpec,
    inputs: TrainingInputs,
    report: StepCallback | None,
    tuned: TunedBaselines,
    group: TrainingGroup | None,
    measure: bool,
) -> TrainingResult:
    """Train with the run's number of threads, and record its end whatever it is.

    A signal is noticed between two parts of the work; one that comes after the last of them takes effect when the run
    is recorded as finished.
    """
    with interruption() as is_interrupted:
        return _record_end(
            workspace, spec, lambda: _train(workspace, spec, inputs, report, tuned, group, is_interrupted, measure)
        )


def _record_end(workspace: Workspace, spec: RunSpec, train: Callable[[], TrainingResult]) -> TrainingResult:
    try:
        with fixed_threads(spec.threads):
            return train()
    except TrainingInterruption as reason:
        _close(workspace, spec, "stopped", str(reason))
        raise
    except (RecsysMetaError, KeyboardInterrupt) as reason:
        with suppress(RecsysMetaError):  # where the database fails too, the first failure is what is told
            _close(workspace, spec, "failed", str(reason) or "interrupted")
        raise
    except OSError as error:
        message = f"{spec.folder(workspace)} cannot be written: {error.strerror or error}"
        with suppress(RecsysMetaError):
            _close(workspace, spec, "failed", message)
        raise CheckpointError(f"{message}; `recsys-meta train --resume {spec.id}` continues") from None
    except Exception as error:
        with suppress(RecsysMetaError):
            _close(workspace, spec, "failed", f"unexpected {type(error).__name__}")
        raise


def _train(
    workspace: Workspace,
    spec: RunSpec,
    inputs: TrainingInputs,
    report: StepCallback | None,
    tuned: TunedBaselines,
    group: TrainingGroup | None,
    is_interrupted: IsInterrupted,
    measure: bool,
) -> TrainingResult:
    if group is not None:
        group.first_text(spec.dump())
    folder, data, split = spec.folder(workspace), inputs.data, inputs.split
    carried: list[str] = []
    run = start_or_resume(spec, inputs, folder, group, carried.append)
    for line in [*carried, shard_tables(run)]:
        if line:
            tuned.notify(line)
    learner, train_rows, resumed_at = run.learner, run.index, run.step
    start = time.perf_counter()
    criteria = (validation_of(learner, inputs, spec.recipe), training_criterion(learner, inputs, spec.recipe))
    train_steps(workspace, spec, run, *criteria, report, is_interrupted)
    best = abs(run.best) if np.isfinite(run.best) else None

    def stop_if_interrupted() -> None:
        if is_interrupted():
            raise TrainingInterruption.of(spec, "after the last step")

    params = _choose_constants(run, inputs, stop_if_interrupted)
    result = fit_run_ensemble(learner, params, spec.recipe, inputs, tuned, stop_if_interrupted=stop_if_interrupted)
    stop_if_interrupted()
    bundle = with_meeting_slope(
        _bundle(spec, data, train_rows, split, run, params, result.ensemble), inputs, spec.recipe
    )
    bundle = with_new_item_choices(bundle, inputs, spec.recipe, tuned.notify)
    bundle_folder = save_bundle(bundle, folder / "bundle")
    saved = load_bundle(bundle_folder)
    validation = None
    if measure:
        tuned.notify("measuring what adapting does for meta-validation entities")
        validation = measure_validation(spec, inputs, saved)
        store_comparison(workspace, [validation])
    _close(workspace, spec, "finished", run.stop_reason or None)
    write_run_archive(workspace, spec.id)
    return TrainingResult(
        spec,
        folder,
        run.step,
        time.perf_counter() - start,
        resumed_at,
        best,
        run.stop_reason,
        saved,
        () if result.ensemble is None else result.ensemble.shares,
        result.warnings,
        "".join(carried),
        validation,
    )


def _choose_constants(run: TrainingRun, inputs: TrainingInputs, stop_if_interrupted: Callable[[], None]) -> Params:
    """Best parameters of a run, with what is chosen on episodes after the last step.

    On the CPU, wherever training ran: these episodes are of a few hundred entities.
    """
    learner, recipe = run.learner, run.recipe
    params = {k: v.cpu() for k, v in run.best_params_or_last().items()}
    params = learner.calibrate(params, calibration_episodes(inputs, recipe))
    stop_if_interrupted()
    if isinstance(learner, DislikeLearner):
        params = learner.choose_push(params, dislike_episodes(inputs, recipe), inputs.split.valid)
        stop_if_interrupted()
    return params


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
