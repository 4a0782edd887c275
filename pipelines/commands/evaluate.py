"""`recsys-meta evaluate`: the cold-start curve of one published model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipelines.batch.executors import ExecutionBackend, check_backend
from pipelines.commands.comparison_output import (
    MinQuery,
    OrderOption,
    PlotsFolder,
    parse_baselines,
    parse_order,
    print_comparison,
)
from pipelines.console import JsonFile, Shots, err, parse_shots, progress_bar
from pipelines.experiments.comparison import Comparison, MethodCurves
from pipelines.experiments.comparison_run import reference_baseline, tuning_note
from pipelines.experiments.comparison_storage import store_comparison
from pipelines.experiments.curve_workers import CurveEpisodes, CurveMethod, curve_backend
from pipelines.experiments.evaluation_protocol import FLAGSHIPS, EvaluationProtocol, Scenario, split_name
from pipelines.experiments.method_origin import origin_of_baseline, origin_of_bundle
from pipelines.experiments.training_inputs import source_of, training_inputs
from pipelines.experiments.tuned_baselines import TunedBaselines
from pipelines.workspace import Workspace
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import CheckpointError, ConfigError
from recsys_meta.core.types import Params
from recsys_meta.evaluation.baseline_tuning import edge_warnings
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.evaluation.evaluate_batch import metric_names
from recsys_meta.evaluation.newcomers import describe_newcomers, item_popularity
from recsys_meta.models.bundle import Bundle
from recsys_meta.models.protocols import Predictor
from recsys_meta.store.tracking import evaluations


def evaluate(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or the folder of a bundle.")],
    shots: Shots = None,
    baselines: Annotated[
        str, typer.Option(help="all, none, or names separated by commas; the simplest one is always beside.")
    ] = "none",
    dataset: Annotated[str | None, typer.Option(help="Data set; default: the one it was trained on.")] = None,
    order: OrderOption = None,
    min_query: MinQuery = None,
    engine: Annotated[
        ExecutionBackend, typer.Option(help="Who measures: this process, or several that Ray runs here.")
    ] = ExecutionBackend.LOCAL,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes of --engine ray; default: one for each processor.")
    ] = None,
    json_file: JsonFile = None,
    html: Annotated[Path | None, typer.Option(help="Write report.html and cold_start.png into this folder.")] = None,
    plots: PlotsFolder = None,
) -> None:
    """The cold-start curve of a published model on its meta-test newcomers, with 95% intervals.

    The same with either engine; a process of Ray that dies is replaced.
    """
    check_backend(engine, workers)
    workspace = Workspace()
    result = measure_bundle(
        workspace,
        workspace.bundle(model),
        shots=parse_shots(shots),
        baselines=baselines,
        dataset=dataset,
        order=order,
        min_query=min_query,
        engine=engine,
        workers=workers,
    )
    # A bundle in a folder has no name before it is published.
    name = None if workspace.is_bundle(model) else model.partition("@")[0]
    store_evaluation(workspace, result, name, workspace.bundle_folder(model))
    print_comparison([result], json_file, html, plots)


def evaluate_version(workspace: Workspace, name: str, version: str) -> None:
    """Evaluate a published version beside the simplest baseline and store the curve, as the command does.

    Raises RecsysMetaError where its data set is not at hand.
    """
    result = measure_bundle(workspace, workspace.bundle(f"{name}@{version}"))
    store_evaluation(workspace, result, name, workspace.bundle_folder(f"{name}@{version}"))


def measure_bundle(
    workspace: Workspace,
    bundle: Bundle,
    *,
    shots: tuple[int, ...] | None = None,
    baselines: str = "none",
    dataset: str | None = None,
    order: str | None = None,
    min_query: int | None = None,
    engine: ExecutionBackend = ExecutionBackend.LOCAL,
    workers: int | None = None,
) -> Comparison:
    """Measure the curves of a bundle, of the same without adapting, and of baselines.

    Raises CheckpointError where the data set is not the one that it was trained on.
    """
    source = dataset or str(bundle.about.get("dataset", ""))
    data, folder = workspace.dataset(source)
    if data.digest != bundle.about.get("data_digest"):
        raise CheckpointError(
            "this data set is not the one that the model was trained on; meta-test would not be new to it"
        )
    scenario: Scenario = "actors" if bundle.about.get("scenario") == "actors" else "new"
    protocol = EvaluationProtocol(shots, str(bundle.about["split"]), parse_order(order), min_query, scenario)
    points, seed = protocol.points(data), int(bundle.about["seed"])
    inputs = training_inputs(data, source_of(source, folder), scenario=scenario, split=protocol.split, seed=seed)
    index, split = inputs.index, inputs.split
    episodes = CurveEpisodes(
        inputs.source, data.digest, scenario, protocol.split, seed, points, protocol.order, min_query
    )
    name = str(bundle.about.get("recipe", bundle.predictor.name))
    result = Comparison(data.schema.name, protocol.label(data), metric_names(data), points)
    result.split = split_name(data, protocol.split)
    origins = {seed: origin_of_bundle(workspace, bundle.version, name)}
    result.newcomers[seed] = describe_newcomers(
        data,
        index,
        split.test,
        item_popularity(data, index, split.train),
        shots=points,
        order=protocol.order,
        seed=inputs.split_seed,
        min_query=min_query,
    )
    with progress_bar() as progress, curve_backend(workers, under_ray=engine is ExecutionBackend.RAY) as measure:

        def curve(predictor: Predictor, params: Params, label: str, adapts: bool = True) -> ColdStartCurve:
            task = progress.add_task(label, total=len(split.test), note="")
            method = CurveMethod(predictor, params, adapts)
            result_curve = measure(inputs, episodes, method, lambda done: progress.update(task, completed=done))
            return ColdStartCurve(label, result_curve.entities, result_curve.values)

        role: evaluations.Role = "flagship" if name in FLAGSHIPS else "learner"
        model_curve = curve(bundle.predictor, bundle.params, name)
        versions = {seed: bundle.version}
        result.methods.append(MethodCurves(name, role, {seed: model_curve}, versions=versions, origins=origins))
        plain = f"{name}-unadapted"
        plain_curve = curve(bundle.predictor, bundle.params, plain, adapts=False)
        result.methods.append(MethodCurves(plain, "learner", {seed: plain_curve}, origins=origins))
        requested_names, tuned = parse_baselines(baselines, data), TunedBaselines(inputs)
        for other in _with_reference(requested_names, data):
            try:
                baseline = tuned.tune(other, points, protocol.order)
            except ConfigError as error:
                if other in requested_names:
                    raise
                err.print(f"[dim]{other} is left out: {escape(str(error))}[/]")
                continue
            baseline_curve = curve(baseline.predictor, baseline.params, other)
            result.methods.append(
                MethodCurves(
                    other,
                    "baseline",
                    {seed: baseline_curve},
                    tuning_note(baseline.report),
                    warnings=tuple(edge_warnings(baseline.report)),
                    origins={seed: origin_of_baseline(baseline.report)},
                )
            )
    return result


def _with_reference(names: list[str], data: Dataset) -> list[str]:
    """Baselines by name and the reference baseline, which a promotion is checked against."""
    simplest = reference_baseline(data)
    return names if simplest in names else [simplest, *names]


def store_evaluation(workspace: Workspace, result: Comparison, model: str | None, folder: Path | None) -> None:
    """Store what was measured of a bundle, under the name of its model where it has one, and beside its folder."""
    store_comparison(workspace, [result], model, {} if folder is None else dict.fromkeys(result.newcomers, folder))


def add_to(app: typer.Typer) -> None:
    """Mount the command."""
    app.command()(evaluate)
