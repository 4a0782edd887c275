"""Training by Ray Train: its workers are the processes of a training group, restarted where one of them fails.

A worker that starts again, alone or because Ray has more or fewer processes for the run than before, resumes the run
from its last checkpoint, with any number of processes, as `train --resume` does. So the run's folder has to be one that
every worker reads; what each attempt has to know of those before it is a file beside it.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.experiments.comparison_run import recipe_for
from pipelines.experiments.run_spec import RunSpec, read_run_spec
from pipelines.experiments.training_inputs import TrainingInputs, open_training_inputs
from pipelines.experiments.training_processes import LONGEST_WAIT
from pipelines.experiments.training_run import (
    TrainingResult,
    fitting_recipe,
    follow_run,
    resume_run,
    train_run,
)
from pipelines.experiments.training_steps import StepCallback
from pipelines.ray_runtime import ray_cluster
from pipelines.workspace import Workspace
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.errors import ConfigError, ConflictError, ProcessGroupError, RecsysMetaError
from recsys_meta.core.json_text import dump_json
from recsys_meta.evaluation.ensemble import MemberShare
from recsys_meta.models.bundle import load_bundle
from recsys_meta.training.trainer import TrainStep
from recsys_meta.training.training_group import TrainingGroup

LINE_S = 5.0
"""Time between two lines about the steps, seconds."""

LOCK_WAIT_S = 60.0
"""Time that an attempt waits until the one before it, which was killed, has let go of the run, seconds."""


@dataclass(frozen=True)
class RayWorkers:
    """Processes of a run, at least and at most; how often the run is begun again after one of them has failed."""

    least: int
    most: int
    restarts: int = 3

    @classmethod
    def parse(cls, text: str, restarts: int) -> RayWorkers:
        """Read "4" or "2:8". Raises ConfigError for anything else."""
        least, _, most = text.partition(":")
        try:
            workers = cls(int(least), int(most or least), restarts)
        except ValueError:
            workers = cls(0, 0)
        if not 1 <= workers.least <= workers.most:
            raise ConfigError(f"--workers {text}: give a number of processes, or the least and the most, such as 2:8")
        return workers


@dataclass(frozen=True)
class RayTrainingRequest:
    """Request of a training by workers: a new run of a recipe, with overrides, on a data set; or `run`, one to resume.

    `outcome` is the file that attempts write: the run, once it has begun, and its end.
    """

    outcome: str
    run: str | None = None
    recipe: str = "flagship"
    dataset: str = ""
    overrides: tuple[str, ...] = ()
    device: str = "cpu"
    threads: int | None = None
    split: str = "seed"
    scenario: str = "new"
    seed: int = 0
    warm_start: str | None = None
    race: bool | None = None


def train_under_ray(workspace: Workspace, request: RayTrainingRequest, workers: RayWorkers) -> TrainingResult:
    """Train by Ray Train, on the cluster that RAY_ADDRESS names or on this machine, and return the result.

    Raises ConfigError, before Ray is started, for a recipe or data that do not fit, ProcessGroupError where workers
    failed more often than they may, and what the training raises.
    """
    _check(workspace, request)
    outcome = Path(request.outcome)
    with redirect_stdout(sys.stderr), ray_cluster(workers.most):
        try:
            _fit(request, workers)
            problem = "its workers ended without a result"
        except Exception as error:  # Ray has many, of the worker, of the controller and of its own
            problem = str(error.__cause__ or error).strip().rpartition("\n")[2]
    content = _read(outcome)
    outcome.unlink(missing_ok=True)
    shutil.rmtree(_ray_folder(request), ignore_errors=True)
    if "error" in content:
        raise ConfigError(content["error"])
    if "summary" not in content:
        more = f"; `recsys-meta train --resume {content['run']}` continues" if "run" in content else ""
        raise ProcessGroupError(f"training under Ray has failed: {problem}{more}")
    return _result(workspace, content["run"], content["summary"])


def outcome_file(workspace: Workspace) -> Path:
    """Path of a new file for what the attempts of a run say to one another, beside the runs."""
    return workspace.settings.runs / f".ray-{secrets.token_hex(8)}.json"


def _ray_folder(request: RayTrainingRequest) -> Path:
    """Folder in which Ray Train keeps what its controller has to know, beside the outcome."""
    return Path(request.outcome).resolve().with_suffix(".state")


def _check(workspace: Workspace, request: RayTrainingRequest) -> None:
    if request.run is not None:
        read_run_spec(workspace, request.run)
        return
    inputs = _inputs(workspace, request)
    fitting_recipe(recipe_for(request.recipe, inputs.data, list(request.overrides)), inputs)
    workspace.settings.runs.mkdir(parents=True, exist_ok=True)


def _inputs(workspace: Workspace, request: RayTrainingRequest) -> TrainingInputs:
    return open_training_inputs(
        workspace, request.dataset, scenario=request.scenario, split=request.split, seed=request.seed
    )


def _fit(request: RayTrainingRequest, workers: RayWorkers) -> None:
    """Run the workers until one attempt has ended well. Raises what Ray raises."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    on_gpu = request.device == "cuda"
    elastic = workers.least if workers.least == workers.most else (workers.least, workers.most)
    TorchTrainer(
        train_worker,
        train_loop_config=asdict(request),
        torch_config=TorchConfig(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout_s=int(LONGEST_WAIT.total_seconds())
        ),
        scaling_config=ScalingConfig(num_workers=elastic, use_gpu=on_gpu),
        run_config=RunConfig(
            name=_ray_folder(request).name,
            storage_path=str(_ray_folder(request).parent),
            failure_config=FailureConfig(max_failures=workers.restarts),
        ),
    ).fit()


def train_worker(fields: dict[str, Any]) -> None:
    """One worker of an attempt: the first trains the run or resumes it, the others take part in its steps."""
    from ray.train import get_context

    request, place, workspace = RayTrainingRequest(**fields), get_context(), Workspace()
    outcome = Path(request.outcome)
    if "error" in (before := _read(outcome)):  # another attempt would end alike
        return
    size = place.get_world_size()
    own = TrainingGroup(place.get_world_rank(), size, place.get_local_rank(), place.get_local_world_size())
    if not own.is_first:
        follow_run(workspace, own)
        return
    try:
        result = _train_first(workspace, request, before.get("run", request.run), None if size == 1 else own)
    except ProcessGroupError:  # another worker has failed: to be tried again
        raise
    except RecsysMetaError as error:
        write_file(outcome, dump_json({**_read(outcome), "error": str(error)}).encode())
        raise
    write_file(outcome, dump_json({"run": result.spec.id, "summary": _summary(result)}).encode())


def _train_first(
    workspace: Workspace, request: RayTrainingRequest, run: str | None, group: TrainingGroup | None
) -> TrainingResult:
    def note(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    if run is not None:
        return _when_free(lambda: resume_run(workspace, run, _printed_steps(run), note, group))

    def remember(spec: RunSpec) -> None:
        write_file(Path(request.outcome), dump_json({"run": spec.id}).encode())

    inputs = _inputs(workspace, request)
    return train_run(
        workspace,
        recipe_for(request.recipe, inputs.data, list(request.overrides)),
        inputs,
        device=request.device,
        threads=request.threads,
        report=_printed_steps(request.recipe),
        notify=note,
        group=group,
        warm_start=None if request.warm_start is None else Path(request.warm_start),
        race=request.race,
        begun=remember,
    )


def _printed_steps(name: str) -> StepCallback:
    """Print a line about the steps every five seconds, on standard error, which Ray carries to the command."""
    last_line = float("-inf")

    def report(step: TrainStep) -> None:
        nonlocal last_line
        if time.monotonic() - last_line >= LINE_S or step.step == step.steps:
            last_line = time.monotonic()
            sys.stderr.write(f"{name}  step {step.step:,} of {step.steps:,}  loss {step.loss:.3f}\n")

    return report


def _when_free(train: Callable[[], TrainingResult]) -> TrainingResult:
    """Train once nobody else does. Raises ConflictError where somebody does for longer than a killed attempt may."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return train()
        except ConflictError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _read(outcome: Path) -> dict[str, Any]:
    if not outcome.is_file():
        return {}
    content: dict[str, Any] = json.loads(outcome.read_text())
    return content


def _summary(result: TrainingResult) -> dict[str, Any]:
    """Return what a result has beside the run's files."""
    return {
        "steps": result.steps,
        "seconds": result.seconds,
        "resumed_at": result.resumed_at,
        "best": result.best,
        "stop_reason": result.stop_reason,
        "version": result.bundle.version,
        "shares": [asdict(share) for share in result.shares],
        "warnings": list(result.warnings),
        "carried": result.carried,
    }


def _result(workspace: Workspace, run: str, summary: dict[str, Any]) -> TrainingResult:
    spec = read_run_spec(workspace, run)
    folder = spec.folder(workspace)
    shares = tuple(MemberShare(s["name"], {int(k): v for k, v in s["shares"].items()}) for s in summary.pop("shares"))
    warnings = tuple(summary.pop("warnings"))
    bundle = load_bundle(folder / "bundle" / summary.pop("version"))
    result = TrainingResult(spec, folder, bundle=bundle, **summary)
    return replace(result, shares=shares, warnings=warnings)
