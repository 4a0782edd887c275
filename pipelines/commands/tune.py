"""`recsys-meta tune`."""

from __future__ import annotations

import secrets
from collections import Counter
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from pipelines.commands.comparison_output import parse_split
from pipelines.commands.study_progress import StudyProgress
from pipelines.commands.train import device_name
from pipelines.console import Json, err, out, print_json, print_table, progress_bar
from pipelines.experiments.comparison_run import recipe_for
from pipelines.experiments.training_inputs import TrainingInputs, open_training_inputs
from pipelines.workspace import Workspace
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.limits import NAME_LENGTH
from recsys_meta.store.tracking import tuning
from recsys_meta.training.recipe import Recipe

if TYPE_CHECKING:
    from pipelines.tuning.open_study import OpenStudy
    from pipelines.tuning.tuning_run import TuningResult

TRIALS = 30


def tune_command(
    recipe: Annotated[str | None, typer.Option(help="Recipe to start from, by name or .toml file.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set by name, or the folder of a prepared one or of a TOML schema.")
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="Search space by name or .toml file; default: the one of the recipe or learner.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one key of the recipe.")] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help=f"Trials that the study is to have in all, by default {TRIALS}.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the trials.")] = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Most steps of a trial; default: as long as its recipe trains.")
    ] = None,
    study: Annotated[str | None, typer.Option(help="Name of the study; one that exists goes on.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of split, training and search, by default 0.")] = None,
    split: Annotated[
        str | None, typer.Option(help="How entities are split: seed (default), seed:N, hash:N, time.")
    ] = None,
    scenario: Annotated[
        str | None, typer.Option(help="new, the default, or actors: episodes of a few actors' rows.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, the default, or cuda.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each worker.")] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="Where the recipe that was found is written.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write report.html into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Search the hyper-parameters of a recipe on meta-validation, and write the recipe that was found.

    Each trial trains the recipe's learner, without its ensemble, and is stopped early if it falls behind.
    Trials are written to the database as they end: after Ctrl-C or a crash `tune --study NAME` goes on.
    """
    _check_options(split, scenario, study, out_file)
    _require_libraries()
    from pipelines.tuning.tuning_run import run_study

    workspace = Workspace()
    if study is not None and _exists(workspace, study):
        settings = (recipe, dataset, space, set_, steps, seed, split, scenario, device)
        opened = _reopen(workspace, study, trials, has_settings=any(setting is not None for setting in settings))
    else:
        inputs = _open_inputs(workspace, study, dataset, scenario, split, seed)
        start = recipe_for(recipe or "flagship", inputs.data, set_ or [])
        opened = _begin(workspace, study, start, space, inputs, trials, steps, device)
    err.print(f"study [bold]{escape(opened.record.name)}[/]", soft_wrap=True)
    with progress_bar() as progress:
        watch = StudyProgress(progress, opened.record)
        result = run_study(
            workspace, opened, workers=workers, threads=threads, on_trials=watch.on_trials, on_step=watch.on_step
        )
    file = out_file or workspace.settings.home / "studies" / opened.record.name / "recipe.toml"
    _finish(opened, result, file, html, as_json)


def _check_options(split: str | None, scenario: str | None, study: str | None, out_file: Path | None) -> None:
    if split is not None:
        parse_split(split)
    if scenario not in (None, "new", "actors"):
        raise typer.BadParameter("new or actors", param_hint="--scenario")
    if out_file is not None and out_file.suffix != ".toml":
        raise typer.BadParameter("a recipe is a .toml file", param_hint="--out")
    if study is not None and (Path(study).name != study or not 0 < len(study) <= NAME_LENGTH):
        raise typer.BadParameter(f"a name has at most {NAME_LENGTH} characters and no slash", param_hint="--study")


def _require_libraries() -> None:
    if missing := [name for name in ("optuna", "tomli_w") if find_spec(name) is None]:
        raise ConfigError(f"{' and '.join(missing)} missing; run: pip install 'recsys-meta[tune]'")


def _exists(workspace: Workspace, study: str) -> bool:
    with workspace.reading() as session:
        return tuning.study_exists(session, study)


def _reopen(workspace: Workspace, study: str, trials: int | None, has_settings: bool) -> OpenStudy:
    """Open a study that exists; it takes no settings but its number of trials."""
    from pipelines.tuning.open_study import reopen_study

    if has_settings:
        raise typer.BadParameter(
            f"study '{study}' exists and goes on with its own recipe, data set, space, seed and steps: leave them "
            "out, or choose another name",
            param_hint="--study",
        )
    return reopen_study(workspace, study, trials)


def _open_inputs(
    workspace: Workspace,
    study: str | None,
    dataset: str | None,
    scenario: str | None,
    split: str | None,
    seed: int | None,
) -> TrainingInputs:
    """Open the data of a new study. Raises ConfigError without a data set."""
    if dataset is None:
        raise ConfigError(
            "--dataset is missing: a name of `recsys-meta data list`, or a prepared folder"
            + (f"; there is no study '{study}' to go on with" if study else "")
        )
    return open_training_inputs(workspace, dataset, scenario=scenario or "new", split=split or "seed", seed=seed or 0)


def _begin(
    workspace: Workspace,
    study: str | None,
    start: Recipe,
    space: str | None,
    inputs: TrainingInputs,
    trials: int | None,
    steps: int | None,
    device: str | None,
) -> OpenStudy:
    """Begin a study from a recipe, and say which studies on similar data it begins with."""
    from pipelines.tuning.open_study import begin_study
    from pipelines.tuning.search_space import find_search_space

    opened = begin_study(
        workspace,
        study or _new_name(start.name, inputs.data.schema.name),
        start,
        find_search_space(space, start),
        inputs,
        trials=trials or TRIALS,
        steps=steps,
        device=device_name(device or "cpu"),
    )
    for like in opened.similar:
        text = f"tries the best of study {like.name} on {like.dataset} (distance {like.distance:.2f})"
        err.print(f"[dim]{escape(text)}[/]", soft_wrap=True)
    return opened


def _new_name(recipe: str, dataset: str) -> str:
    ending = f"-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    return f"{recipe}-{dataset}"[: NAME_LENGTH - len(ending)] + ending


def _finish(opened: OpenStudy, result: TuningResult, file: Path, html: Path | None, as_json: bool) -> None:
    """Write the recipe and the report, and print the result."""
    from pipelines.tuning.tuned_recipe import recipe_toml

    write_file(file, recipe_toml(opened, result.best).encode())
    if html is not None:
        from pipelines.tuning.tuning_report import write_tuning_report

        err.print(f"wrote {write_tuning_report(opened, result, html)}", soft_wrap=True)
    if as_json:
        print_json(_summary(opened, result, file))
        return
    _print_result(opened, result)
    source = opened.record.settings["source"]
    err.print(f"Next: recsys-meta train --recipe {file} --dataset {source}", soft_wrap=True)


def _print_result(opened: OpenStudy, result: TuningResult) -> None:
    """Print the best trial and the table of the settings that were found, the most important ones first."""
    record, best, shares = opened.record, result.best, result.importances
    counts = Counter(t.status for t in result.trials)
    told = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    out.print(
        f"study [bold]{escape(record.name)}[/]: {told}; best {record.metric} {best.value:.4f} on meta-validation, "
        f"trial {best.number} ({escape(best.origin)})",
        soft_wrap=True,
    )
    choices = opened.space.choices
    keys = sorted(choices, key=lambda k: -(shares or {}).get(k, 0.0))
    rows: list[tuple[Any, ...]] = [(key, best.params[key], choices[key].text) for key in keys]
    columns: tuple[str, ...] = ("key", "found", "searched")
    if shares:
        rows = [(*row, round(shares.get(key, 0.0), 3)) for row, key in zip(rows, keys, strict=True)]
        columns = (*columns, "importance")
    print_table("Settings", columns, rows)


def _summary(opened: OpenStudy, result: TuningResult, file: Path) -> dict[str, Any]:
    record, best = opened.record, result.best
    return {
        "study": record.name,
        "dataset": record.dataset,
        "metric": record.metric,
        "direction": record.direction,
        "recipe": str(file),
        "best": {"trial": best.number, "value": best.value, "origin": best.origin, "params": best.params},
        "importances": result.importances,
        "space": record.space,
        "trials": [
            {k: v for k, v in trial.as_dict().items() if k not in ("study", "worker", "heartbeat")}
            for trial in result.trials
        ],
    }


def add_to(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("tune")(tune_command)
