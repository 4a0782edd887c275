"""`recsys-meta compare`: learners and baselines side by side on one data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.commands.comparison_output import (
    MinQuery,
    OrderOption,
    parse_baselines,
    parse_names,
    parse_order,
    print_comparison,
)
from pipelines.commands.train import StepProgress
from pipelines.console import JsonFile, Shots, parse_shots, progress_bar
from pipelines.experiments.comparison import Comparison
from pipelines.experiments.comparison_run import EvaluationProtocol, Scenario, compare
from pipelines.workspace import Workspace
from recsys_meta.training.trainer import TrainStep


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
    protocol = EvaluationProtocol(parse_shots(shots), split, parse_order(order), min_query, _scenario(scenario))
    results = run_comparison(
        workspace,
        str(folder),
        learners=None if learners == "all" else parse_names(learners),
        baselines=parse_baselines(baselines, data),
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


def _scenario(text: str) -> Scenario:
    match text:
        case "new" | "corners" | "actors" | "sampled":
            return text
        case _:
            raise typer.BadParameter("new, corners, actors or sampled", param_hint="--scenario")


def add_to(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("compare")(compare_command)
