"""`recsys-meta evaluate` and `recsys-meta compare`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from pipelines.commands.train import StepProgress
from pipelines.console import JsonFile, Shots, err, out, parse_shots, progress_bar
from pipelines.experiments import report
from pipelines.experiments.compare import (
    FLAGSHIPS,
    EvaluationProtocol,
    Scenario,
    baselines_for,
    compare,
    reference_baseline,
    tuning_note,
)
from pipelines.experiments.comparison import Comparison, MethodCurves, as_json
from pipelines.experiments.training_inputs import event_index_for
from pipelines.workspace import Workspace
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import CheckpointError, ConfigError
from recsys_meta.core.schema import Order
from recsys_meta.episodes.splits import split_of
from recsys_meta.evaluation.baseline_tuning import fit_tuned
from recsys_meta.evaluation.cold_start import UnadaptedPredictor, cold_start
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.evaluation.evaluate_batch import metric_names
from recsys_meta.store.tracking import evaluations
from recsys_meta.training.trainer import TrainStep

OrderOption = Annotated[
    str | None, typer.Option("--order", help="Draw supports by time or random; default: the data's.")
]
MinQuery = Annotated[int | None, typer.Option(min=1, help="Query rows a newcomer needs to count at a point.")]


def command_line() -> str:
    """Command as it was typed, without the path of the program."""
    return shlex.join(["recsys-meta", *sys.argv[1:]])


def evaluate(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or the folder of a bundle.")],
    shots: Shots = None,
    baselines: Annotated[
        str, typer.Option(help="all, none, or names separated by commas; the simplest one is always beside.")
    ] = "none",
    dataset: Annotated[str | None, typer.Option(help="Data set; default: the one it was trained on.")] = None,
    order: OrderOption = None,
    min_query: MinQuery = None,
    json_file: JsonFile = None,
    html: Annotated[Path | None, typer.Option(help="Write report.html and cold_start.png into this folder.")] = None,
) -> None:
    """The cold-start curve of a published model on its meta-test newcomers, with 95% intervals."""
    workspace = Workspace()
    bundle = workspace.bundle(model)
    data, _ = workspace.dataset(dataset or str(bundle.about.get("dataset", "")))
    if data.digest != bundle.about.get("data_digest"):
        raise CheckpointError(
            "this data set is not the one that the model was trained on; meta-test would not be new to it"
        )
    scenario: Scenario = "actors" if bundle.about.get("scenario") == "actors" else "new"
    protocol = EvaluationProtocol(parse_shots(shots), str(bundle.about["split"]), _order(order), min_query, scenario)
    points = protocol.points(data)
    seed = int(bundle.about["seed"])
    index = event_index_for(data, scenario, seed)
    split = split_of(data, index, protocol.split, seed)
    name = str(bundle.about.get("recipe", bundle.predictor.name))
    result = Comparison(data.schema.name, protocol.label(data), metric_names(data), points)
    with progress_bar() as progress:

        def curve(predictor: Any, params: Any, label: str) -> ColdStartCurve:
            task = progress.add_task(label, total=len(split.test), note="")
            result_curve = cold_start(
                predictor,
                params,
                data,
                index,
                split.test,
                shots=points,
                order=protocol.order,
                seed=seed,
                min_query=min_query,
                progress=lambda done, _: progress.update(task, completed=done),
            )
            return ColdStartCurve(label, result_curve.entities, result_curve.values)

        role: evaluations.Role = "flagship" if name in FLAGSHIPS else "learner"
        model_curve = curve(bundle.predictor, bundle.params, name)
        result.methods.append(MethodCurves(name, role, {seed: model_curve}, versions={seed: bundle.version}))
        plain = f"{name}-unadapted"
        result.methods.append(
            MethodCurves(plain, "learner", {seed: curve(UnadaptedPredictor(bundle.predictor), bundle.params, plain)})
        )
        requested_names = _baselines(baselines, data)
        for other in _with_reference(requested_names, data):
            try:
                baseline = fit_tuned(other, data, index, split, shots=points, seed=seed, order=protocol.order)
            except ConfigError as error:
                if other in requested_names:
                    raise
                err.print(f"[dim]{other} is left out: {escape(str(error))}[/]")
                continue
            baseline_curve = curve(baseline.predictor, baseline.params, other)
            result.methods.append(MethodCurves(other, "baseline", {seed: baseline_curve}, tuning_note(baseline.report)))
    _store(workspace, result, model)
    print_comparison([result], json_file, html)


def _with_reference(names: list[str], data: Dataset) -> list[str]:
    """Baselines by name and the reference baseline, which a promotion is checked against."""
    simplest = reference_baseline(data)
    return names if simplest in names else [simplest, *names]


def _store(workspace: Workspace, result: Comparison, model: str) -> None:
    # A bundle in a folder has no name before it is published.
    name = None if workspace.is_bundle(model) else model.partition("@")[0]
    rows = [replace(r, model=name) if r.model_version is not None else r for r in result.evaluations()]
    with workspace.session() as session:
        evaluations.save_evaluations(session, rows)


def compare_command(
    dataset: Annotated[str, typer.Option(help="Data set by name, or the folder of a prepared one.")],
    learners: Annotated[str, typer.Option(help="all, none, or recipe names separated by commas.")] = "all",
    baselines: Annotated[str, typer.Option(help="all, none, or names separated by commas.")] = "all",
    shots: Shots = None,
    seeds: Annotated[int, typer.Option(min=1, help="Splits and initialisations 0 to N-1.")] = 3,
    split: Annotated[str, typer.Option(help="How entities are split: seed or time.")] = "seed",
    order: OrderOption = None,
    min_query: MinQuery = None,
    scenario: Annotated[
        str,
        typer.Option(
            help="new: new entities, all items; corners: known or new entity times known or new item; "
            "actors: support of some actors, query of others; sampled: the same, among 100 others only."
        ),
    ] = "new",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one key of every recipe.")] = None,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    json_file: JsonFile = None,
    html: Annotated[Path | None, typer.Option(help="Write report.html and cold_start.png into this folder.")] = None,
) -> None:
    """Learners and baselines side by side on the same episodes, the same seeds and the same tuning budget."""
    if split not in ("seed", "time"):
        raise typer.BadParameter("seed or time", param_hint="--split")
    workspace = Workspace()
    data, folder = workspace.dataset(dataset)
    protocol = EvaluationProtocol(parse_shots(shots), split, _order(order), min_query, _scenario(scenario))
    results = run_comparison(
        workspace,
        str(folder),
        learners=None if learners == "all" else _names(learners),
        baselines=_baselines(baselines, data),
        protocol=protocol,
        seeds=tuple(range(seeds)),
        overrides=set_ or [],
        threads=threads,
    )
    print_comparison(results, json_file, html)


def run_comparison(workspace: Workspace, dataset: str, **settings: Any) -> list[Comparison]:
    """Run a comparison with a progress bar; the settings are those of `compare`."""
    with progress_bar() as progress:
        watches: dict[str, StepProgress] = {}

        def on_step(name: str, step: TrainStep) -> None:
            if name not in watches or step.step == 1:
                watches[name] = StepProgress(progress, name)
            watches[name](step)

        return compare(
            workspace,
            dataset,
            notify=lambda text: progress.console.print(f"[dim]{text}[/]"),
            on_step=on_step,
            **settings,
        )


def print_comparison(results: Sequence[Comparison], json_file: Path | None = None, html: Path | None = None) -> None:
    """Print tables and paired tests; write JSON and reports if given (a folder for each of several scenarios)."""
    for result in results:
        _print(result)
    for name, seconds in {m.name: m.seconds for r in results for m in r.methods if m.seconds}.items():
        err.print(f"[dim]{name}: trained in at most {seconds:.0f} s a seed[/]")
    if json_file is not None:
        content = as_json(results, command_line(), datetime.now(UTC).isoformat())
        write_file(json_file, json.dumps(content, indent=1).encode())
        err.print(f"[dim]wrote {escape(str(json_file))}[/]", soft_wrap=True)
    if html is not None:
        for result in results:
            folder = html if len(results) == 1 else html / result.scenario.partition("/")[0]
            for path in report.write_report(result, folder, command_line()):
                err.print(f"[dim]wrote {escape(str(path))}[/]", soft_wrap=True)


def _print(result: Comparison) -> None:
    metric = result.metrics[0]
    out.print(report.curve_table(result, metric))
    lines = result.against_best_baseline(metric)
    if lines:
        out.print(
            f"\n[bold]{lines[0].method}[/] less the best baseline at each point, paired over newcomers, 95% interval:"
        )
    for v in lines:
        out.print("  " + report.verdict(v), soft_wrap=True)
    out.print()


def _names(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(n.strip() for n in text.split(",") if n.strip())


def _baselines(text: str, data: Any) -> list[str]:
    return (
        [] if text == "none" else baselines_for(data, None if text == "all" else [n.strip() for n in text.split(",")])
    )


def _scenario(text: str) -> Scenario:
    match text:
        case "new" | "corners" | "actors" | "sampled":
            return text
        case _:
            raise typer.BadParameter("new, corners, actors or sampled", param_hint="--scenario")


def _order(text: str | None) -> Order | None:
    match text:
        case None | "time" | "random":
            return text
        case _:
            raise ConfigError("--order is time or random")


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(evaluate)
    app.command("compare")(compare_command)
