"""`recsys-meta compare`: learners and baselines side by side, on one data set or on several in turn."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from pipelines.commands.comparison_output import (
    MinQuery,
    OrderOption,
    PlotsFolder,
    SplitOption,
    SummaryOutput,
    exit_status,
    parse_baselines,
    parse_names,
    parse_order,
    parse_split,
    print_comparison,
    require_writable,
)
from pipelines.commands.stage_progress import StageProgress
from pipelines.commands.train import StepProgress
from pipelines.console import JsonFile, Shots, err, parse_shots, progress_bar
from pipelines.experiments.comparison import Comparison
from pipelines.experiments.comparison_run import compare, every_learner
from pipelines.experiments.dataset_sources import (
    DatasetSource,
    baselines_serving,
    learners_serving,
    open_sources,
    require_known,
)
from pipelines.experiments.dataset_summary import DatasetFailure
from pipelines.experiments.evaluation_protocol import EvaluationProtocol, Scenario
from pipelines.experiments.item_comparison import compare_items
from pipelines.experiments.training_steps import TrainingInterruption
from pipelines.experiments.truth_bounds import add_bounds, require_bounds, with_popularity
from pipelines.workspace import Workspace
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.training.trainer import TrainStep

log = logging.getLogger(__name__)


def compare_command(
    dataset: Annotated[
        list[str],
        typer.Option(
            help="Data set by name, or the folder of a prepared one or of a TOML schema; give several for a summary."
        ),
    ],
    learners: Annotated[
        str, typer.Option(help="usual, all that serve the objective, none, or recipe names separated by commas.")
    ] = "usual",
    baselines: Annotated[str, typer.Option(help="all, none, or names separated by commas.")] = "all",
    shots: Shots = None,
    seeds: Annotated[int, typer.Option(min=1, help="Splits and initialisations 0 to N-1.")] = 3,
    split: SplitOption = "seed",
    order: OrderOption = None,
    min_query: MinQuery = None,
    newcomers: Annotated[
        int | None,
        typer.Option(
            min=2, help="Evaluate at most so many meta-test newcomers, drawn once for all methods; default: all."
        ),
    ] = None,
    scenario: Annotated[
        str,
        typer.Option(
            help="new: new entities, all items; corners: known or new entity times known or new item; "
            "actors: support of some actors, query of others; sampled: the same, among 100 others only; "
            "items: new items for known entities."
        ),
    ] = "new",
    truth: Annotated[
        bool,
        typer.Option(
            "--truth",
            help="Simulated data: add the oracle and the Bayes-optimal prediction, and what share of the way from "
            "popularity to it each method has gone.",
        ),
    ] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one key of every recipe.")] = None,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    reuse: Annotated[
        bool,
        typer.Option("--reuse", help="Take finished runs of the same recipe, data, split, seed and code."),
    ] = False,
    json_file: JsonFile = None,
    html: Annotated[Path | None, typer.Option(help="Write report.html and cold_start.png into this folder.")] = None,
    plots: PlotsFolder = None,
) -> None:
    """Learners and baselines side by side on the same episodes, the same seeds and the same tuning budget.

    Several data sets are compared in turn, each in its own metric; a summary has the wins, ties and losses of the first
    learner, mean ranks, and the largest loss. A data set, a learner or a baseline that fails costs the others nothing;
    the exit status is then 1.
    """
    split = parse_split(split)
    require_writable(json_file, html, plots)
    workspace = Workspace()
    if scenario == "items":
        given = {"--truth": truth, "--set": set_, "--min-query": min_query, "--newcomers": newcomers}
        items = {"shots": parse_shots(shots), "split": split, "order": parse_order(order), "threads": threads}
        names = {"learners": _names_or_none(learners), "baselines": _names_or_none(baselines)}
        results = _compare_items(workspace, dataset, given, seeds=tuple(range(seeds)), **items, **names)
        print_comparison(results, json_file, html, plots)
        return
    settings: dict[str, Any] = {
        "truth": truth,
        "protocol": EvaluationProtocol(
            parse_shots(shots), split, parse_order(order), min_query, _scenario(scenario), newcomers
        ),
        "seeds": tuple(range(seeds)),
        "overrides": set_ or [],
        "threads": threads,
        "reuse": reuse,
        "keep_going": True,
    }
    learner_names = _parse_learners(learners)
    if len(dataset) > 1:
        output = SummaryOutput(json_file, html, plots)
        baseline_names = None if baselines == "all" else parse_names(baselines)
        _compare_each(workspace, dataset, learner_names, baseline_names, output, **settings)
        raise typer.Exit(output.finish())
    data, folder = workspace.dataset(dataset[0])
    if learners == "all":
        learner_names = learners_serving(data, learner_names)
    results = _compare_dataset(
        workspace, str(folder), learners=learner_names, baselines=parse_baselines(baselines, data), **settings
    )
    print_comparison(results, json_file, html, plots)
    raise typer.Exit(exit_status(results))


def _parse_learners(text: str) -> Sequence[str] | None:
    """Names of learners; None for the usual ones."""
    if text == "usual":
        return None
    return every_learner() if text == "all" else parse_names(text)


def _names_or_none(text: str) -> list[str] | None:
    """Names of an option; None for all, an empty list for none."""
    return None if text in ("all", "usual") else list(parse_names(text))


def _compare_items(
    workspace: Workspace, datasets: Sequence[str], given: Mapping[str, object], **settings: Any
) -> list[Comparison]:
    """Compare methods for new items on one data set or several in turn."""
    if foreign := [option for option, value in given.items() if value]:
        raise typer.BadParameter("is not for --scenario items", param_hint=foreign[0])
    with progress_bar() as progress, StageProgress(progress) as stages:
        return [r for name in datasets for r in compare_items(workspace, name, notify=stages.note, **settings)]


def _compare_each(
    workspace: Workspace,
    datasets: Sequence[str],
    learners: Sequence[str] | None,
    baselines: Sequence[str] | None,
    output: SummaryOutput,
    **settings: Any,
) -> None:
    """Compare on each data set, and hand results and failures to the output as they come."""
    require_known(learners or (), baselines or ())
    sources, failures = open_sources(workspace, datasets)
    for failure in failures:
        output.add_failure(failure)
    for source in sources:
        try:
            output.add(source, _compare_source(workspace, source, learners, baselines, **settings))
        except TrainingInterruption:
            raise
        except RecsysMetaError as error:
            output.add_failure(DatasetFailure(source.given, str(error)))
        except Exception as error:
            # A bug that one data set brings to light must not cost the results of hours on the others.
            log.exception("%s", source.given)
            output.add_failure(DatasetFailure(source.given, f"unexpected {type(error).__name__}: {error}"))


def _compare_source(
    workspace: Workspace,
    source: DatasetSource,
    learners: Sequence[str] | None,
    baselines: Sequence[str] | None,
    **settings: Any,
) -> list[Comparison]:
    """Compare those of the learners and baselines (None: of all) that serve the objective of a data set."""
    data, _ = workspace.dataset(str(source.folder))
    serving: dict[str, Any] = {
        "learners": learners_serving(data, learners),
        "baselines": baselines_serving(data, baselines),
    }
    named = (*(learners or ()), *(baselines or ()))
    if left_out := [n for n in named if not any(n in (names or ()) for names in serving.values())]:
        text = f"{source.label}: {', '.join(left_out)} left out, since its objective is {data.schema.objective}"
        err.print(f"[dim]{escape(text)}[/]", soft_wrap=True)
    return _compare_dataset(workspace, str(source.folder), label=source.label, **serving, **settings)


def _compare_dataset(workspace: Workspace, dataset: str, *, truth: bool, **settings: Any) -> list[Comparison]:
    """Compare on one data set; with `truth` beside the bounds of its simulated world, which must be known."""
    if not truth:
        return run_comparison(workspace, dataset, **settings)
    data, _ = workspace.dataset(dataset)
    bounds = require_bounds(data, settings["protocol"])
    settings["baselines"] = with_popularity(settings["baselines"])
    results = run_comparison(workspace, dataset, **settings)
    for result in results:
        add_bounds(result, data, dataset, bounds, settings["protocol"], settings["seeds"], settings["threads"])
    return results


def run_comparison(workspace: Workspace, dataset: str, **settings: Any) -> list[Comparison]:
    """Run a comparison with a progress bar; the settings are those of `compare`."""
    with progress_bar() as progress, StageProgress(progress) as stages:
        watches: dict[str, StepProgress] = {}

        def on_step(name: str, step: TrainStep) -> None:
            if name not in watches or step.step == 1:
                watches[name] = StepProgress(progress, name, stages)
            watches[name](step)

        return compare(
            workspace,
            dataset,
            notify=stages.note,
            on_step=on_step,
            **settings,
        )


def _scenario(text: str) -> Scenario:
    match text:
        case "new" | "corners" | "actors" | "sampled":
            return text
        case _:
            raise typer.BadParameter("new, corners, actors, sampled or items", param_hint="--scenario")


def add_to(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("compare")(compare_command)
