"""`recsys-meta tune`."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress

from pipelines.commands.train import device_name
from pipelines.console import Json, err, out, print_json, print_table, progress_bar
from pipelines.experiments.comparison_run import recipe_for
from pipelines.experiments.training_inputs import open_training_inputs
from pipelines.workspace import Workspace
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.limits import NAME_LENGTH
from recsys_meta.store.tracking import tuning
from recsys_meta.store.tracking.tables import TuningStudyRecord, TuningTrialRecord
from recsys_meta.training.trainer import TrainStep

if TYPE_CHECKING:
    from pipelines.tuning.open_study import OpenStudy
    from pipelines.tuning.tuning_run import TuningResult

TRIALS = 30
LINE_S = 5.0
"""Seconds between two lines of progress where nobody watches a bar."""


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
    split: Annotated[str | None, typer.Option(help="How entities are split: seed, the default, or time.")] = None,
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
    if split not in (None, "seed", "time"):
        raise typer.BadParameter("seed or time", param_hint="--split")
    if scenario not in (None, "new", "actors"):
        raise typer.BadParameter("new or actors", param_hint="--scenario")
    if out_file is not None and out_file.suffix != ".toml":
        raise typer.BadParameter("a recipe is a .toml file", param_hint="--out")
    if study is not None and (Path(study).name != study or not 0 < len(study) <= NAME_LENGTH):
        raise typer.BadParameter(f"a name has at most {NAME_LENGTH} characters and no slash", param_hint="--study")
    _require_libraries()
    from pipelines.tuning.open_study import begin_study, reopen_study
    from pipelines.tuning.search_space import find_search_space
    from pipelines.tuning.tuning_run import run_study

    workspace = Workspace()
    if study is not None and _exists(workspace, study):
        begins = (recipe, dataset, space, set_, steps, seed, split, scenario, device)
        if any(option is not None for option in begins):
            raise typer.BadParameter(
                f"study '{study}' exists and goes on with its own recipe, data set, space, seed and steps: leave them "
                "out, or choose another name",
                param_hint="--study",
            )
        opened = reopen_study(workspace, study, trials)
    else:
        if dataset is None:
            raise ConfigError(
                "--dataset is missing: a name of `recsys-meta data list`, or a prepared folder"
                + (f"; there is no study '{study}' to go on with" if study else "")
            )
        inputs = open_training_inputs(
            workspace, dataset, scenario=scenario or "new", split=split or "seed", seed=seed or 0
        )
        start = recipe_for(recipe or "flagship", inputs.data, set_ or [])
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
    err.print(f"study [bold]{escape(opened.record.name)}[/]", soft_wrap=True)
    with _progress(opened.record) as watch:
        result = run_study(
            workspace,
            opened,
            workers=workers,
            threads=threads,
            on_trials=watch.on_trials,
            on_step=watch.on_step,
        )
    file = out_file or workspace.settings.home / "studies" / opened.record.name / "recipe.toml"
    _finish(opened, result, file, html, as_json)


def _require_libraries() -> None:
    if missing := [name for name in ("optuna", "tomli_w") if find_spec(name) is None]:
        raise ConfigError(f"{' and '.join(missing)} missing; run: pip install 'recsys-meta[tune]'")


def _exists(workspace: Workspace, study: str) -> bool:
    with workspace.reading() as session:
        return tuning.study_exists(session, study)


def _new_name(recipe: str, dataset: str) -> str:
    ending = f"-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    return f"{recipe}-{dataset}"[: NAME_LENGTH - len(ending)] + ending


class StudyProgress:
    """Progress bar of a study; off a terminal a line every few seconds, when there is something new."""

    def __init__(self, progress: Progress, study: TuningStudyRecord) -> None:
        self._progress, self._study = progress, study
        self._task = progress.add_task("tuning", total=study.trials, note="")
        self._step, self._text, self._line, self._at = "", "", "", -LINE_S

    def on_trials(self, trials: Sequence[TuningTrialRecord]) -> None:
        """Show the counts of the trials and the best of them."""
        counts = Counter(t.status for t in trials)
        done = sum(counts[status] for status in ("finished", "pruned", "failed"))
        best = tuning.best_trial(trials, self._study.direction)
        shown = f"best {self._study.metric} {best.value:.4f} (trial {best.number})" if best else "none finished yet"
        others = [f"{counts[s]} {s}" for s in ("running", "pruned", "failed", "lost") if counts[s]]
        self._text = "  ".join([shown, *others])
        if not counts["running"]:
            self._step = ""
        self._progress.update(self._task, completed=done)
        self._show(done)

    def on_step(self, step: TrainStep) -> None:
        """Show how far the trial is."""
        self._step = f"  step {step.step} of {step.steps}"
        self._show(None)

    def _show(self, done: int | None) -> None:
        self._progress.update(self._task, note=escape(self._text + self._step))
        now = time.monotonic()
        if err.is_terminal or done is None or now - self._at < LINE_S:
            return
        line = f"{done} of {self._study.trials} trials: {self._text}"
        if line != self._line:
            err.print(escape(line), soft_wrap=True)
            self._line, self._at = line, now


@contextmanager
def _progress(study: TuningStudyRecord) -> Iterator[StudyProgress]:
    with progress_bar() as progress:
        yield StudyProgress(progress, study)


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
    record, best = opened.record, result.best
    counts = Counter(t.status for t in result.trials)
    told = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    out.print(
        f"study [bold]{escape(record.name)}[/]: {told}; best {record.metric} {best.value:.4f} on meta-validation, "
        f"trial {best.number} ({escape(best.origin)})",
        soft_wrap=True,
    )
    shares = result.importances
    columns = ("key", "found", "searched", *(("importance",) if shares else ()))
    rows = [
        (
            key,
            best.params[key],
            opened.space.choices[key].text,
            *((round(shares.get(key, 0.0), 3),) if shares else ()),
        )
        for key in sorted(opened.space.choices, key=lambda k: -(shares or {}).get(k, 0.0))
    ]
    print_table("Settings", columns, rows)
    err.print(f"Next: recsys-meta train --recipe {file} --dataset {record.settings['source']}", soft_wrap=True)


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
