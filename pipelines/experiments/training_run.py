"""One meta-training run from start to bundle: progress, metrics in SQL, checkpoints, resume, clean stop."""

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

from pipelines.workspace import Workspace, find_recipe, recipe_names
from recsys_meta import __version__
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import CheckpointError, ConfigError, DivergedError, NotFoundError, RecsysMetaError
from recsys_meta.core.types import IntArray, Params, TaskBatch
from recsys_meta.data import SOURCES
from recsys_meta.episodes.actor_episodes import ActorIndex
from recsys_meta.episodes.event_index import EventIndex, order_rows
from recsys_meta.episodes.splits import EntitySplit, split_of
from recsys_meta.episodes.warm_cold_scenarios import four_corners
from recsys_meta.evaluation.cold_start import cold_start, episodes_at, metric_names
from recsys_meta.evaluation.evaluate_batch import is_row_metric
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.models.bundle import Bundle, load_bundle, make_bundle, save_bundle
from recsys_meta.models.factory import build_predictor
from recsys_meta.models.learners import LEARNERS
from recsys_meta.models.protocols import Learner
from recsys_meta.store.tracking import curriculum, runs
from recsys_meta.store.tracking.runs import MetricPoint
from recsys_meta.training.checkpoint import last_checkpoint, save_checkpoint
from recsys_meta.training.recipe import Recipe, recipe_of
from recsys_meta.training.trainer import TrainingRun, TrainStep, fit, from_checkpoint, start_training, to_checkpoint

StepCallback = Callable[[TrainStep], None]

ACTOR_SHOTS = (0, 4, 16, 64)
"""Support actors of the scenario "actors"."""
WATCHED_ROWS = 500
"""Query rows of a meta-validation entity that are looked at, where rows are measured."""


@dataclass(frozen=True)
class RunSpec:
    """What identifies a run: written to run.json before the first step, so that a resume needs nothing else."""

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
        """Where the run keeps its files."""
        return workspace.settings.runs / self.id


@dataclass(frozen=True)
class TrainingResult:
    """A finished run. `seconds` count from when it was started or, at step `resumed_at`, resumed."""

    plan: RunSpec
    folder: Path
    steps: int
    seconds: float
    resumed_at: int
    best: float | None
    stopped: str
    bundle: Bundle


class TrainingInterrupted(RecsysMetaError):
    """The user asked to stop; the last checkpoint holds all that was done."""


def default_threads() -> int:
    """Two where the machine has them: a step of these models is too small to keep more busy."""
    return min(2, os.cpu_count() or 1)


def event_index_for(data: Dataset, scenario: str, seed: int) -> EventIndex:
    """The rows of a data set as a scenario draws episodes from them: entity by entity, or actor by actor."""
    index = EventIndex.of(data)
    return ActorIndex.of_rows(index, seed) if scenario == "actors" else index


def default_shots(data: Dataset, scenario: str) -> tuple[int, ...]:
    """The numbers of shots that a scenario looks at unless told otherwise."""
    return ACTOR_SHOTS if scenario == "actors" else data.schema.shots


def train_run(
    workspace: Workspace,
    recipe: Recipe,
    dataset: str,
    *,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    split: str = "seed",
    scenario: str = "new",
    report: StepCallback | None = None,
) -> TrainingResult:
    """A new run. Scenario "new" trains on all rows of the training entities, "corners" on those that no corner of
    `scenarios` asks about, "actors" on episodes of actors (see `actors`)."""
    data, folder = workspace.dataset(dataset)
    recipe = recipe.suited(len(split_of(data, event_index_for(data, scenario, seed), split, seed).train))
    if scenario == "actors":
        recipe = recipe_of({**recipe.model_dump(mode="json"), "few": {}}, [f"episodes.max_shots={max(ACTOR_SHOTS)}"])
    plan_threads = threads or default_threads()
    with workspace.session() as session:
        row = runs.start_run(
            session,
            recipe=recipe.name,
            dataset=data.schema.name,
            learner=recipe.learner,
            config=recipe.model_dump(mode="json"),
            seed=seed,
            device=device,
            code_version=__version__,
        )
        identity = row.id
    source = dataset if dataset in SOURCES else str(folder.resolve())
    plan = RunSpec(identity, recipe, source, data.digest, seed, device, plan_threads, split, scenario)
    about = {**plan.__dict__, "recipe": recipe.model_dump(mode="json")}
    write_file(plan.folder(workspace) / "run.json", json.dumps(about, indent=1).encode())
    return _carry_out(workspace, plan, data, report)


def resume_run(workspace: Workspace, identity: str, report: StepCallback | None = None) -> TrainingResult:
    """Continue a run from its last whole checkpoint, bit for bit. Raises NotFoundError, CheckpointError."""
    plan = read_run_spec(workspace, identity)
    data, _ = workspace.dataset(plan.dataset)
    if data.digest != plan.digest:
        raise CheckpointError(f"run {identity} was made from other data than {plan.dataset} holds now")
    with workspace.session() as session:
        runs.set_run_status(session, identity, "running")
    return _carry_out(workspace, plan, data, report)


def read_run_spec(workspace: Workspace, identity: str) -> RunSpec:
    """The plan of a run. Raises NotFoundError, or CheckpointError when run.json is damaged."""
    path = workspace.settings.runs / identity / "run.json"
    if Path(identity).name != identity or not path.is_file():
        raise NotFoundError(f"no run '{identity}' under {workspace.settings.runs}; `recsys-meta runs list` shows them")
    try:
        about: dict[str, Any] = json.loads(path.read_text())
        return RunSpec(**{**about, "recipe": recipe_of(about["recipe"], where=str(path))})
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__})") from None


def _carry_out(workspace: Workspace, plan: RunSpec, data: Dataset, report: StepCallback | None) -> TrainingResult:
    try:
        with fixed_threads(plan.threads):
            return _train(workspace, plan, data, report)
    except TrainingInterrupted as reason:
        _close(workspace, plan, "stopped", str(reason))
        raise
    except (RecsysMetaError, KeyboardInterrupt) as reason:
        _close(workspace, plan, "failed", str(reason) or "interrupted")
        raise
    except Exception as error:
        _close(workspace, plan, "failed", f"unexpected {type(error).__name__}")
        raise


def _train(workspace: Workspace, plan: RunSpec, data: Dataset, report: StepCallback | None) -> TrainingResult:
    folder = plan.folder(workspace)
    rows = event_index_for(data, plan.scenario, plan.seed).to(plan.device)
    split = split_of(data, rows, plan.split, plan.seed)
    seen = rows
    if plan.scenario == "corners":
        seen = four_corners(data, EventIndex.of(data), split, seed=plan.seed).training.to(plan.device)
    learner = learner_of(plan.recipe, data)
    run = start_training(learner, plan.recipe, data, seen, split.train, plan.seed, plan.device)
    found = last_checkpoint(folder)
    if found is not None:
        from_checkpoint(run, found)
    resumed_at = run.step
    began = time.perf_counter()
    validate = _validation(learner, data, seen, split, plan)
    with _interruption() as asked:
        for step in fit(run, validate):
            _record(workspace, plan, step)
            if step.epoch_end or _due(plan.recipe, step):
                save_checkpoint(folder, to_checkpoint(run), plan.recipe.train.keep)
            if report is not None:
                report(step)
            if asked() and step.step < step.steps:
                save_checkpoint(folder, to_checkpoint(run), plan.recipe.train.keep)
                raise TrainingInterrupted(
                    f"stopped at step {step.step} of {step.steps}; `recsys-meta train --resume {plan.id}` continues"
                )
    best = abs(run.best) if np.isfinite(run.best) else None
    # Validation and calibration look at a few hundred entities: the host does for them, wherever training ran.
    params = learner.calibrate({k: v.cpu() for k, v in run.chosen().items()}, _episodes(data, seen, split, plan))
    bundle = _bundle(plan, data, seen, split, run, params)
    written = save_bundle(bundle, folder / "bundle")
    _close(workspace, plan, "finished", run.stopped or None)
    return TrainingResult(
        plan, folder, run.step, time.perf_counter() - began, resumed_at, best, run.stopped, load_bundle(written)
    )


def learner_of(recipe: Recipe, data: Dataset) -> Learner:
    """The learner of a recipe, told the objective of the data where its configuration has one and the recipe is
    silent."""
    wanted, served = data.schema.objective, getattr(LEARNERS.get(recipe.learner), "objectives", None)
    if served is not None and wanted not in served:
        raise ConfigError(
            f"'{recipe.learner}' serves objective {' or '.join(sorted(served))}, "
            f"but '{data.schema.name}' has '{wanted}'; use {' or '.join(_serving(wanted))}"
        )
    config = dict(recipe.config)
    config.setdefault("objective", wanted)
    made = build_predictor(recipe.learner, config)
    if not hasattr(made, "meta_loss"):
        raise ConfigError(f"'{recipe.learner}' is a baseline; it is fitted, not trained")
    return made  # type: ignore[return-value]


def _serving(objective: str) -> list[str]:
    """The recipes that come with the project and serve an objective."""
    found = [(n, getattr(LEARNERS.get(find_recipe(n).learner), "objectives", ())) for n in recipe_names()]
    return [f"--recipe {name}" for name, served in found if objective in served] or ["another data set"]


def _validation(
    learner: Learner, data: Dataset, rows: EventIndex, split: EntitySplit, plan: RunSpec
) -> Callable[[Params], float]:
    chosen = _watched(split, plan)
    metric = metric_names(data)[0]
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    host = rows.to("cpu")

    def validate(params: Params) -> float:
        here = {k: v.cpu() for k, v in params.items()}
        curve = cold_start(
            learner,
            here,
            data,
            host,
            chosen,
            shots=default_shots(data, plan.scenario),
            seed=plan.seed,
            chunk=128,
            most_rows=WATCHED_ROWS,
            lists=False,
        )
        return sign * curve.mean(metric)

    return validate


def _watched(split: EntitySplit, plan: RunSpec) -> IntArray:
    """The meta-validation entities that are looked at."""
    most = plan.recipe.train.validate_entities
    if len(split.valid) <= most:
        return split.valid
    return np.random.default_rng(plan.seed).choice(split.valid, most, replace=False)


def _episodes(data: Dataset, rows: EventIndex, split: EntitySplit, plan: RunSpec) -> list[TaskBatch]:
    """Meta-validation episodes to calibrate on, a batch for each support size that somebody reaches."""
    host = rows.to("cpu")
    index = order_rows(host, data.schema.order, plan.seed)
    chosen = np.sort(_watched(split, plan))
    least, begin = data.schema.min_query, data.schema.query_from
    parts = {k: chosen[index.has_support(chosen, k, least, begin)] for k in default_shots(data, plan.scenario)}
    most = WATCHED_ROWS if is_row_metric(data) else None
    return [episodes_at(data, index, part, k, most, plan.seed) for k, part in parts.items() if len(part)]


def _record(workspace: Workspace, plan: RunSpec, step: TrainStep) -> None:
    if step.buckets:
        with workspace.session() as session:
            curriculum.save_curriculum(session, plan.id, [(step.step, step.buckets)])
    if step.valid is None and not step.epoch_end and step.step % 10:
        return
    figures = {"loss": step.loss, "gradient_norm": step.gradient, "epoch": float(step.epoch), **step.logs}
    figures["tasks_per_second"] = step.tasks_per_second
    if step.valid is not None:
        figures["valid"] = abs(step.valid)  # errors count as negative while choosing
    with workspace.session() as session:
        runs.log_metrics(session, [MetricPoint(plan.id, k, step.step, float(v)) for k, v in figures.items()])


def _due(recipe: Recipe, step: TrainStep) -> bool:
    every = recipe.train.checkpoint_every
    return every > 0 and step.step % every == 0


def _bundle(
    plan: RunSpec, data: Dataset, rows: EventIndex, split: EntitySplit, run: TrainingRun, params: Params
) -> Bundle:
    # Neither the run's id nor a path: equal weights make an equal version, wherever they were trained.
    about = {
        "recipe": plan.recipe.name,
        "dataset": data.schema.name,
        "seed": plan.seed,
        "split": plan.split,
        "metrics": {"valid": abs(run.best) if np.isfinite(run.best) else None, "steps": run.step},
    }
    if plan.scenario != "new":
        about["scenario"] = plan.scenario
    return make_bundle(run.learner, params, data, rows, split.train, about)


def _close(workspace: Workspace, plan: RunSpec, status: runs.Status, reason: str | None) -> None:
    with workspace.session() as session:
        runs.set_run_status(session, plan.id, status, reason=reason)


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """A fixed number of threads for torch and BLAS: sums come in the same order, so a resume is bit-exact."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _interruption() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C (or SIGTERM) into a flag; a second one interrupts at once."""
    asked = False

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: the caller owns the signals
        before = {}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = [
    "DivergedError",
    "RunSpec",
    "TrainingInterrupted",
    "TrainingResult",
    "learner_of",
    "read_run_spec",
    "resume_run",
    "split_of",
    "train_run",
]
