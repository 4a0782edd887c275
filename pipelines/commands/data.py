"""Commands for data sets: list, prepare, describe and validate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from pipelines.console import Json, err, out, print_json, print_table
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.core.schema import Objective
from recsys_meta.data import SOURCES, describe, locate, open_dataset, prepare_custom, prepare_named, validate
from recsys_meta.data.readers.raw_tables import OnError, ProgressCallback
from recsys_meta.data.sources.registry import DOWNLOADS_FOLDER
from recsys_meta.data.sources.toml_schema import read_custom
from recsys_meta.data.validation.rejects import REJECTS_FILE
from recsys_meta.store.settings import Settings

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_sources(as_json: Json = False) -> None:
    """List the built-in data sets and one's own prepared ones, with the directories of raw files and prepared data."""
    settings = Settings()
    rows: list[dict[str, Any]] = []
    for name, source in SOURCES.usable().items():
        directory = settings.prepared / name
        raw = locate(name, None, settings.data) or locate(name, None, settings.prepared / DOWNLOADS_FOLDER)
        raw_files = "simulated" if source.simulate else raw
        prepared_at = directory if (directory / "dataset.json").is_file() else None
        about = {"title": source.title, "terms": source.terms, "url": source.url or None}
        rows.append({"name": name, **about, "raw": raw_files, "prepared": prepared_at})
    rows += _own_datasets(settings)
    if as_json:
        print_json(rows)
        return
    lines = [
        (
            r["name"],
            r["title"],
            r["raw"] or (_missing(r["name"]) if r["name"] in SOURCES else "your own"),
            r["prepared"],
        )
        for r in rows
    ]
    print_table("Data sets", ("name", "what", "raw files", "prepared"), lines)


def _own_datasets(settings: Settings) -> list[dict[str, Any]]:
    """Describe the prepared data sets that are not built in, by the names of their directories."""
    rows = []
    for file in sorted(settings.prepared.glob("*/dataset.json")):
        name = file.parent.name
        if name in SOURCES or name.startswith("."):
            continue
        try:
            data = open_dataset(file.parent)
            count = len(data.events)
            title = f"{count:,} events of {data.events.entity_count:,} entities: {data.schema.objective}"
        except DataError as error:
            title = f"cannot be opened: {error.problem}"
        rows.append({"name": name, "title": title, "terms": None, "url": None, "raw": None, "prepared": file.parent})
    return rows


def _missing(name: str) -> str:
    """Return the note for raw files that are not on this machine."""
    return "to be downloaded" if SOURCES[name].archive else "bring your own"


@app.command("prepare")
def prepare_data(
    name: Annotated[str, typer.Argument(help="A built-in name, a TOML schema, or an .inter file.")],
    source: Annotated[Path | None, typer.Option(help="Directory of the raw files (a schema: default its own).")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Where it goes (default HOME/data/NAME).")] = None,
    on_error: Annotated[str, typer.Option(help="Bad rows: 'fail', or 'skip' them into rejects.csv.")] = "fail",
    objective: Annotated[str | None, typer.Option(help="Override: ranking, rating, click or choice.")] = None,
    positive: Annotated[float | None, typer.Option(help="Override: labels from here on are positives.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of a simulator.")] = 0,
    download: Annotated[bool, typer.Option(help="Fetch raw files that are not found.")] = True,
    as_json: Json = False,
) -> None:
    """Read raw files, check every row, and write a data set that the other commands read.

    A data set that is not under RECSYS_META_DATA is downloaded from its publisher, under the publisher's terms.
    """
    on_bad_row = _one_of(on_error, get_args(OnError), "--on-error")
    new_objective = None if objective is None else _one_of(objective, get_args(Objective), "--objective")
    settings = Settings()
    with _progress() as report_progress:
        if name in SOURCES:
            target = to or settings.prepared / name
            data = prepare_named(
                name,
                target,
                source,
                settings.data,
                on_bad_row,
                report_progress,
                objective=new_objective,
                positive=positive,
                seed=seed,
                download=download,
            )
        else:
            target = to or settings.prepared / _name_of(name, source)
            data = prepare_custom(
                name,
                target,
                on_bad_row,
                report_progress,
                source=source,
                objective=new_objective,
                positive=positive,
            )
    _report(data, target, as_json)


def _one_of(value: str, choices: tuple[Any, ...], option: str) -> Any:
    if value not in choices:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(choices)}", param_hint=option)
    return value


def _name_of(path: str, source: Path | None) -> str:
    """Read the name of a user's data set from its schema. Raises ConfigError for a wrong path or option, and errors of
    the schema, before any data are read."""
    if not Path(path).exists() and Path(path).suffix not in (".toml", ".inter"):
        raise ConfigError(f"'{path}' is neither a schema file nor one of {', '.join(SOURCES)}")
    return read_custom(Path(path), source)[0].schema.name


@contextmanager
def _progress() -> Iterator[ProgressCallback]:
    """Show progress bars on standard error, one for each stage; yield the callback that moves them."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        tasks = {}

        def report(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=fraction)

        yield report


def _report(data: Dataset, target: Path, as_json: bool) -> None:
    description = describe(data)
    if as_json:
        print_json({"path": target, **description})
        return
    about: Any = description["about"]
    out.print(
        f"{escape(data.schema.name)}: {description['events']:,} events of {description['entities']:,} entities "
        f"and {description['items']:,} items in {escape(str(target))}",
        soft_wrap=True,
    )
    for warning in about["warnings"]:
        err.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    if about["rows_rejected"]:
        counts = ", ".join(f"{n:,} of the {t}" for t, n in about["rows_rejected"].items())
        file = escape(str(target / REJECTS_FILE))
        err.print(f"[yellow]bad rows left out:[/] {counts}; reasons in {file}", soft_wrap=True)
    for column in about.get("unused_columns", ()):
        err.print(f"[yellow]column not used:[/] {escape(column)}", soft_wrap=True)


@app.command("describe")
def describe_data(
    directory: Annotated[Path, typer.Argument(help="A prepared directory, or the name of one under HOME/data.")],
    as_json: Json = False,
) -> None:
    """Describe a prepared data set: counts, quantiles, labels, times and features."""
    folder = _prepared_folder(directory)
    description = describe(open_dataset(folder))
    if as_json:
        print_json({"path": folder, **description})
        return
    print_table(str(description["name"]), ("figure", "value"), list(_lines(description)))
    for key in ("entity_features", "item_features"):
        table: Any = description[key]
        rows = [(c["name"], c["kind"], c.get("values"), c.get("a_row"), c["missing"]) for c in table]
        if rows:
            print_table(key.replace("_", " ").capitalize(), ("feature", "kind", "values", "in a row", "missing"), rows)


def _prepared_folder(directory: Path) -> Path:
    """Return the directory of a prepared data set given by path or name; where there is none, as it was given."""
    places = Settings().prepared_folders(str(directory))
    return next((p for p in places if (p / "dataset.json").is_file()), directory)


def _lines(description: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("digest", "entities", "items", "events", "density"):
        yield key, f"{description[key]:,.4g}" if isinstance(description[key], float) else f"{description[key]}"
    for key in ("rows_of_an_entity", "rows_of_an_item", "labels", "time"):
        if description[key]:
            yield key.replace("_", " "), ", ".join(f"{k}: {_short(v)}" for k, v in description[key].items())
    schema = description["schema"]
    yield "objective", schema["objective"] + (f", positive from {schema['positive']:g}" if schema["positive"] else "")
    for key, value in description["about"].items():
        if key not in description and value not in (None, "", [], {}):
            yield key.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@app.command("validate")
def validate_data(
    file: Annotated[Path, typer.Argument(help="A TOML schema, an .inter file, or a prepared directory or its name.")],
    examples: Annotated[int, typer.Option(min=0, help="Bad rows to show.")] = 20,
    as_json: Json = False,
) -> None:
    """Check every row of one's own data, or every byte of a prepared directory; exit 1 when something is wrong."""
    file = file if file.is_file() else _prepared_folder(file)
    with _progress() as report_progress:
        report = validate(file, report_progress, examples)
    if as_json:
        print_json({"path": file, "ok": report.ok, **asdict(report)})
    else:
        counts = f"{report.events:,} good events of {report.entities:,} entities and {report.items:,} items"
        out.print(f"{escape(str(file))}: {counts}", soft_wrap=True)
        if report.rejected:
            rejected_counts = ", ".join(f"{n:,} of the {t}" for t, n in report.rejected.items())
            rows = [tuple(e.values()) for e in report.examples]
            print_table(f"Bad rows: {rejected_counts}", ("file", "line", "field", "reason", "row"), rows)
        for warning in report.warnings:
            err.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    if not report.ok:
        raise typer.Exit(1)
