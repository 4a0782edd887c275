"""`recsys-meta check-learner` and `check-baseline`: the conformance suite, for methods of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape

from pipelines.console import Json, err, out, print_json
from pipelines.experiments.thread_count import fixed_threads
from recsys_meta.evaluation.conformance import CheckResult, check_baseline, check_learner
from recsys_meta.training.recipe import recipe_of

Name = Annotated[str, typer.Argument(help="Name that it is registered by, here or in an installed package.")]
ObjectiveOption = Annotated[
    str | None, typer.Option("--objective", help="ranking, rating, click or choice; default: all that it serves.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A setting of its configuration: dims=8. By default its own.")
]


def check_learner_command(
    name: Name, objective: ObjectiveOption = None, set_: Settings = None, as_json: Json = False
) -> None:
    """Check what every learner promises: order, padding, batches, empty supports, unknown ids, gradients.

    Each check runs on a small simulated world of each objective. Exit status 1 where one fails.
    """
    _run(name, check_learner(name, _settings(set_ or ()), objective), as_json)


def check_baseline_command(
    name: Name, objective: ObjectiveOption = None, set_: Settings = None, as_json: Json = False
) -> None:
    """Check what every baseline promises, alone and tuned for each number of shots; exit 1 where it fails."""
    _run(name, check_baseline(name, _settings(set_ or ()), objective), as_json)


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings from key=value pairs, read as those of a recipe's `config`. Raises ConfigError."""
    return recipe_of({"name": "check", "learner": "check"}, [f"config.{pair}" for pair in pairs], "--set").config


def _run(name: str, results: Iterable[CheckResult], as_json: bool) -> None:
    """Print each result as it comes, and exit with 1 if a check failed."""
    seen = []
    with fixed_threads(1):  # the worlds are tiny: a second thread costs more than it gives
        for result in results:
            seen.append(result)
            if not as_json:
                _print(result)
    failed = [r for r in seen if r.problem is not None]
    if as_json:
        print_json([asdict(r) for r in seen])
    elif not failed:
        out.print(f"[green]{escape(name)} keeps all {len(seen)} promises[/]", soft_wrap=True)
    if failed:
        names = ", ".join(f"{r.check} ({r.world})" for r in failed)
        err.print(f"[red]{escape(name)} fails {len(failed)} of {len(seen)} checks:[/] {escape(names)}", soft_wrap=True)
        raise typer.Exit(1)


def _print(result: CheckResult) -> None:
    state = "[green]ok[/]    " if result.problem is None else "[red]failed[/]"
    out.print(f"{state} {escape(result.world)}: {escape(result.check)}", soft_wrap=True)
    if result.problem is not None:
        out.print(f"         expected: {escape(result.promise)}", soft_wrap=True)
        out.print(f"         but not: {escape(result.problem)}", soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command("check-learner")(check_learner_command)
    app.command("check-baseline")(check_baseline_command)
