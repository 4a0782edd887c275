"""`recsys-meta train`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from pipelines.batch.executors import ExecutionBackend, check_backend
from pipelines.commands.comparison_output import SplitOption, command_line, parse_split, require_writable
from pipelines.commands.stage_progress import StageProgress
from pipelines.console import Json, err, out, print_json, print_rich, progress_bar, with_command
from pipelines.experiments.comparison_run import recipe_for
from pipelines.experiments.ray_training import RayTrainingRequest, RayWorkers, outcome_file, train_under_ray
from pipelines.experiments.report import NAMES
from pipelines.experiments.run_spec import RunSpec, read_run_spec
from pipelines.experiments.training_inputs import open_training_inputs
from pipelines.experiments.training_processes import training_group
from pipelines.experiments.training_report import write_training_report
from pipelines.experiments.training_run import TrainingResult, follow_run, resume_run, train_run
from pipelines.experiments.training_steps import TrainingInterruption
from pipelines.experiments.validation_curve import adapting_tests
from pipelines.workspace import Workspace
from recsys_meta.core.errors import ConfigError
from recsys_meta.evaluation.ensemble import MemberShare
from recsys_meta.store.tracking.paired_tests import NewPairedTest
from recsys_meta.store.tracking.run_course import course_names, metric_course
from recsys_meta.training.trainer import TrainStep
from recsys_meta.training.training_group import TrainingGroup

NO_DATASET = "--dataset is missing: a name of `recsys-meta data list`, or a prepared folder"
LINE_S = 5.0
"""Time between two lines about a training off a terminal, seconds."""


class StepProgress:
    """Progress of a training run: loss, best validation, tasks a second; a bar, off a terminal a line now and then.

    The time left is that of the steps since the first one, which says nothing of it: what came before it was no step.
    """

    def __init__(self, progress: Progress, name: str, stages: StageProgress | None = None) -> None:
        self._progress, self._name, self._stages = progress, name, stages
        self._task = progress.add_task(name, total=None, note="")
        self._printed = -LINE_S
        self._first: tuple[int, float] | None = None  # the step, and when it was done

    def __call__(self, step: TrainStep) -> None:
        best = "-" if step.best is None else f"{abs(step.best):.4f}"
        note = f"loss {step.loss:.3f}  valid {best}  {step.tasks_per_second:,.0f}/s"
        self._progress.update(self._task, total=step.steps, completed=step.step, note=note)
        now = time.monotonic()
        first, began = self._first = self._first or (step.step, now)
        if self._stages is not None:
            self._stages.follow(f"{self._name}  after step {step.step:,} of {step.steps:,}")
        if not self._progress.console.is_terminal and (now - self._printed >= LINE_S or step.step == step.steps):
            self._printed = now
            line = f"{self._name}  step {step.step:,} of {step.steps:,}  {note}"
            if step.step > first:
                line += f"  {(now - began) * (step.steps - step.step) / (step.step - first):,.0f} s left"
            self._progress.console.print(escape(line), soft_wrap=True)


def train_command(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Option(help="Recipe by name or .toml file.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set by name, or the folder of a prepared one or of a TOML schema.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one key: train.epochs=10.")] = None,
    resume: Annotated[str | None, typer.Option(help="Continue this run from its last checkpoint.")] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", help="Start from this model's parameters: NAME, NAME@VERSION or the folder of a bundle."
        ),
    ] = None,
    race: Annotated[
        bool | None,
        typer.Option(
            "--race/--no-race",
            help="With --from: race the recipe's regularisations from the model's parameters, or take over those "
            "that it was trained with; by default it races where the model is of another data set.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads, by default 2; a resume uses the run's own.")
    ] = None,
    split: SplitOption = "seed",
    scenario: Annotated[
        str, typer.Option(help="new, or actors: episodes of a few actors' rows and of what others did next.")
    ] = "new",
    engine: Annotated[
        ExecutionBackend, typer.Option(help="Processes: this one (or torchrun's), or workers of Ray Train.")
    ] = ExecutionBackend.LOCAL,
    workers: Annotated[
        str | None, typer.Option(help="Processes of --engine ray, or the least and the most of them: 2:8.")
    ] = None,
    restarts: Annotated[
        int, typer.Option(min=0, help="Times that --engine ray goes on from the last checkpoint after a failure.")
    ] = 3,
    html: Annotated[Path | None, typer.Option(help="Write report.html into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Meta-train a recipe; checkpoints survive a crash, Ctrl-C stops cleanly, --resume continues bit for bit.

    Under `torchrun --nproc-per-node N -m pipelines train ...` the processes share the tasks of each step; with
    --engine ray those of Ray Train do, which begins again where one of them fails.
    """
    split = parse_split(split)
    if scenario not in ("new", "actors"):
        raise typer.BadParameter("new or actors", param_hint="--scenario")
    if resume is not None and (recipe or dataset or set_ or from_):
        raise typer.BadParameter("a resumed run keeps its own recipe and data set", param_hint="--resume")
    if race is not None and from_ is None:
        raise typer.BadParameter("says what becomes of the race where --from gives a model", param_hint="--race")
    require_writable(None, html)
    check_backend(engine, workers)
    workspace = Workspace()
    if engine is ExecutionBackend.RAY:
        if resume is not None:
            _check_resumed(context, read_run_spec(workspace, resume))
        request = RayTrainingRequest(
            str(outcome_file(workspace)),
            resume,
            recipe or "flagship",
            dataset or "",
            tuple(set_ or ()),
            device if resume is not None or device == "cuda" else device_name(device),
            threads,
            split,
            scenario,
            seed,
            None if from_ is None else str(workspace.bundle_folder(from_).resolve()),
            race,
        )
        if dataset is None and resume is None:
            raise ConfigError(NO_DATASET)
        _finish(
            workspace, train_under_ray(workspace, request, RayWorkers.parse(workers or "1", restarts)), html, as_json
        )
        return
    with training_group() as group:
        if group is not None and not group.is_first:
            _follow(workspace, group)
            return
        with progress_bar() as progress, StageProgress(progress) as stages:
            if resume is not None:
                _check_resumed(context, read_run_spec(workspace, resume))
                result = resume_run(workspace, resume, StepProgress(progress, resume, stages), stages.note, group)
            else:
                if dataset is None:
                    raise ConfigError(NO_DATASET)
                stages.follow(f"opening {dataset}")
                inputs = open_training_inputs(workspace, dataset, scenario=scenario, split=split, seed=seed)
                run_recipe = recipe_for(recipe or "flagship", inputs.data, set_ or [])
                result = train_run(
                    workspace,
                    run_recipe,
                    inputs,
                    device=device_name(device),
                    threads=threads,
                    report=StepProgress(progress, run_recipe.name, stages),
                    notify=stages.note,
                    group=group,
                    warm_start=None if from_ is None else workspace.bundle_folder(from_),
                    race=race,
                )
    _finish(workspace, result, html, as_json)


def _finish(workspace: Workspace, result: TrainingResult, html: Path | None, as_json: bool) -> None:
    """Report what a run has become."""
    if html is not None:
        _write_report(workspace, result, html)
    if as_json:
        print_json({**_summary(result), "config": asdict(result.spec)["recipe"].model_dump(mode="json")})
    else:
        _print_result(result)


def _check_resumed(context: typer.Context, spec: RunSpec) -> None:
    """Raise BadParameter for an option that was given and is not what the run was started with."""
    for name in ("seed", "split", "scenario", "device", "threads"):
        own, value = getattr(spec, name), context.params[name]
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT" and value != own:
            raise typer.BadParameter(
                f"run {spec.id} was started with {own} and goes on with that; leave the option out, or start a new run",
                param_hint=f"--{name}",
            )


def _write_report(workspace: Workspace, result: TrainingResult, folder: Path) -> None:
    with workspace.reading() as session:
        names = course_names(session, result.spec.id)
        courses = {name: metric_course(session, result.spec.id, name) for name in names}
    path = write_training_report(result, courses, folder, command_line())
    err.print(f"[dim]wrote {escape(str(path))}[/]", soft_wrap=True)


def _follow(workspace: Workspace, group: TrainingGroup) -> None:
    """Take part in the run of the group's first process, which alone says how it goes."""
    try:
        follow_run(workspace, group)
    except TrainingInterruption:
        raise typer.Exit(1) from None


def _summary(result: TrainingResult) -> dict[str, Any]:
    summary = {
        "run": result.spec.id,
        "recipe": result.spec.recipe.name,
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "resumed_at": result.resumed_at,
        "valid": result.best,
        "stopped": result.stop_reason,
        "folder": str(result.folder),
        "version": result.bundle.version,
    }
    if result.shares:
        summary["ensemble"] = {member.name: member.shares for member in result.shares}
    if tests := adapting_tests(result.validation):
        columns = ("shots", "metric", "value", "value_against", "difference", "low", "high", "p", "verdict", "n")
        summary["adapting"] = [{name: getattr(test, name) for name in columns} for test in tests]
    if result.carried:
        summary["carried"] = result.carried
    if result.warnings:
        summary["warnings"] = list(result.warnings)
    return summary


def _print_result(result: TrainingResult) -> None:
    reason = result.stop_reason or "all steps done"
    best = "not validated" if result.best is None else f"{result.best:.4f}"
    steps = f"{result.steps} steps" + (f", the last {result.steps - result.resumed_at}" if result.resumed_at else "")
    out.print(
        f"run [bold]{result.spec.id}[/]: {steps} in {result.seconds:.0f} s ({reason}); best on meta-validation {best}",
        soft_wrap=True,
    )
    if result.shares:
        print_rich(_share_table(result.shares))
    if tests := adapting_tests(result.validation):
        print_rich(_adapting_table(tests))
    for warning in result.warnings:
        err.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    err.print(with_command(f"Next: recsys-meta models publish {result.spec.id}"), soft_wrap=True)


def _share_table(shares: Sequence[MemberShare]) -> Table:
    """Table of the ensemble: the share of each member that has one, by the number of support rows."""
    shots = list(shares[0].shares)
    table = Table("share of the ensemble by support rows", *map(str, shots), box=None, pad_edge=False)
    for member in shares:
        if any(member.shares.values()):
            table.add_row(member.name, *(f"{member.shares[k]:.2f}" if member.shares[k] else "" for k in shots))
    return table


def _adapting_table(tests: Sequence[NewPairedTest]) -> Table:
    """Table of what adapting does for meta-validation entities, by the number of events known."""
    title = f"{NAMES.get(tests[0].metric, tests[0].metric)} of meta-validation newcomers, with adapting and without"
    table = Table("events known", "adapted", "unadapted", "difference, 95%", "newcomers", box=None, pad_edge=False)
    table.title = title
    for test in tests:
        difference = f"{test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}]"
        values = (f"{value:.3f}" for value in (test.value, test.value_against))
        table.add_row(str(test.shots), *values, escape(difference), str(test.n))
    return table


def device_name(name: str) -> str:
    """Return the name of a device. Raises ConfigError if there is none of that name here."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"'{name}' is no device; use cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA device is available here; use --device cpu")
    return name


def add_to(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("train")(train_command)
