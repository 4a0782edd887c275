"""`recsys-meta runs`: training runs, their settings and their figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import typer
from rich.markup import escape

from pipelines.console import Json, Limit, is_narrow, out, print_json, print_table
from pipelines.workspace import Workspace
from recsys_meta.store.tracking.runs import get_run, latest_metrics, page_runs, run_metrics
from recsys_meta.store.tracking.setting_tables import changed_settings, flat_settings
from recsys_meta.store.tracking.tables import RunRecord

app = typer.Typer(no_args_is_help=True)

_COLUMNS = ("run", "recipe", "data set", "status", "valid")
_WIDE = 120  # columns that the settings and the reason need beside the rest


@app.command("list")
def list_runs_command(limit: Limit = 20, as_json: Json = False) -> None:
    """Training runs, newest first, with the settings in which runs of the same recipe and data set differ."""
    with Workspace().reading() as session:
        page = page_runs(session, limit=limit).items
        latest = latest_metrics(session, [r.id for r in page])
        settings = _own_settings(page)
        columns = ("id", "recipe", "dataset", "seed", "status", "reason", "started", "finished")
        rows = [
            {**{c: getattr(r, c) for c in columns}, "metrics": latest[r.id], "settings": settings[r.id]} for r in page
        ]
    if as_json:
        print_json(rows)
        return
    # An id has its time.
    lines = [(r["id"], r["recipe"], r["dataset"], r["status"], r["metrics"].get("valid")) for r in rows]
    more = [(_pairs(r["settings"]), r["reason"]) for r in rows]
    if not is_narrow(_WIDE):
        whole = [(*line, *words) for line, words in zip(lines, more, strict=True)]
        print_table("Runs", (*_COLUMNS, "settings", "reason"), whole)
        return
    print_table("Runs", _COLUMNS, lines, unwrapped=("run", "status"))
    for line, words in zip(lines, more, strict=True):
        text = "; ".join(filter(None, words))
        if text:
            out.print(f"[bold]{escape(line[0])}[/]  {escape(text)}")


def _own_settings(page: Sequence[RunRecord]) -> dict[str, dict[str, str]]:
    """Return the settings of each run in which those of its recipe and data set differ."""
    groups: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for run in page:
        groups[run.recipe, run.dataset].append(run)
    own: dict[str, dict[str, str]] = {}
    for group in groups.values():
        differences = changed_settings([_settings(run) for run in group])
        own |= {run.id: {key: values[i] for key, values in differences.items()} for i, run in enumerate(group)}
    return own


def _settings(run: RunRecord) -> dict[str, str]:
    return {"seed": str(run.seed), **flat_settings(run.config)}


def _pairs(settings: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items() if value)


@app.command("compare")
def compare_runs_command(
    ids: Annotated[list[str], typer.Argument(metavar="RUN...", help="Two runs or more.")], as_json: Json = False
) -> None:
    """Runs side by side: what they are, the settings in which they differ, and their latest figures."""
    if len(set(ids)) < 2:
        raise typer.BadParameter("name two runs or more", param_hint="RUN...")
    with Workspace().reading() as session:
        runs = [get_run(session, id) for id in dict.fromkeys(ids)]
        latest = latest_metrics(session, [r.id for r in runs])
        about = {key: [getattr(r, key) for r in runs] for key in ("recipe", "dataset", "status", "code_version")}
        settings = changed_settings([_settings(r) for r in runs])
        names = [r.id for r in runs]
    metrics = {key: [latest[id].get(key) for id in names] for key in sorted({k for m in latest.values() for k in m})}
    if as_json:
        print_json({"runs": names, **about, "settings": settings, "metrics": metrics})
        return
    tables = ("Runs", "", about), ("Settings that differ", "setting", settings), ("Latest figures", "figure", metrics)
    for title, name, values in tables:
        lines = [(key, *cells) for key, cells in values.items()]
        print_table(title, (name, *names), lines, unwrapped=(name,), whole_names=names)


@app.command("export")
def export_runs_command(
    ids: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs.")],
    to: Annotated[str, typer.Option(help="parquet, tensorboard (an extra) or mlflow (an extra).")],
    out_place: Annotated[str, typer.Option("--out", help="A folder; for mlflow the address of its server or store.")],
    as_json: Json = False,
) -> None:
    """Export runs with their settings and figures to where other tools read them."""
    from pipelines.exports.run_exporters import EXPORTERS, Target, export_runs

    if to not in EXPORTERS:
        raise typer.BadParameter(f"one of {', '.join(EXPORTERS)}", param_hint="--to")
    with Workspace().reading() as session:
        runs = [get_run(session, id) for id in dict.fromkeys(ids)]
        places = export_runs(session, runs, cast(Target, to), out_place)
    if as_json:
        print_json({"written": places})
    else:
        for place in places:
            out.print(escape(place), soft_wrap=True)


@app.command("show")
def show_run_command(run: Annotated[str, typer.Argument()], as_json: Json = False) -> None:
    """One run: its recipe and the course of its metrics."""
    with Workspace().reading() as session:
        row = get_run(session, run)
        metrics = [(m.key, m.step, m.value) for m in run_metrics(session, run)]
        fields = {c.name: getattr(row, c.name) for c in row.__table__.columns}
    if as_json:
        print_json({**fields, "metrics": [dict(zip(("key", "step", "value"), f, strict=True)) for f in metrics]})
        return
    print_table(f"Run {run}", ("field", "value"), [(k, str(v)) for k, v in fields.items()])
    print_table("Validation", ("step", "meta-validation", "meta-training tasks", "gap"), _validations(metrics))


def _validations(metrics: list[tuple[str, int, float | None]]) -> list[tuple[int | float | None, ...]]:
    """Validations by step: the criterion on new tasks, on tasks of the training, and how far these are ahead."""
    training = {step: value for key, step, value in metrics if key == "valid_on_training"}
    pairs = [(step, value, training.get(step)) for key, step, value in metrics if key == "valid"]
    return [(step, new, known, None if new is None or known is None else known - new) for step, new, known in pairs]
