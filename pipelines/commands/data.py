"""Data sets: what there is, preparing one, describing it, checking one's own."""

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
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Objective
from recsys_meta.data import SOURCES, describe, locate, open_dataset, prepare_custom, prepare_named, validate
from recsys_meta.data.readers.raw_tables import OnError
from recsys_meta.data.readers.raw_tables import ProgressCallback as Seen
from recsys_meta.data.sources.registry import DOWNLOADS_FOLDER
from recsys_meta.data.sources.toml_schema import read_custom
from recsys_meta.data.validation.rejects import REJECTS_FILE as REJECTS
from recsys_meta.store.settings import Settings

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_sources(as_json: Json = False) -> None:
    """The built-in data sets, where their raw files were found, and whether they are prepared."""
    settings = Settings()
    rows: list[dict[str, Any]] = []
    for name, source in SOURCES.items():
        prepared = settings.prepared / name
        raw = locate(name, None, settings.data) or locate(name, None, settings.prepared / DOWNLOADS_FOLDER)
        found = "simulated" if source.simulate else raw
        done = prepared if (prepared / "dataset.json").is_file() else None
        about = {"title": source.title, "terms": source.terms, "url": source.url or None}
        rows.append({"name": name, **about, "raw": found, "prepared": done})
    if as_json:
        print_json(rows)
        return
    lines = [(r["name"], r["title"], r["raw"] or _missing(str(r["name"])), r["prepared"]) for r in rows]
    print_table("Data sets", ("name", "what", "raw files", "prepared"), lines)


def _missing(name: str) -> str:
    """What is to be done about raw files that were not found."""
    return "to be downloaded" if SOURCES[name].archive else "bring your own"


@app.command("prepare")
def prepare_data(
    name: Annotated[str, typer.Argument(help="A built-in name, a TOML schema, or an .inter file.")],
    source: Annotated[Path | None, typer.Option(help="Directory of the raw files of a built-in data set.")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Where it goes (default HOME/data/NAME).")] = None,
    on_error: Annotated[str, typer.Option(help="Bad rows: 'fail', or 'skip' them into rejects.csv.")] = "fail",
    objective: Annotated[str | None, typer.Option(help="Override: ranking, rating, click or choice.")] = None,
    positive: Annotated[float | None, typer.Option(help="Override: labels from here on are positives.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of a simulator.")] = 0,
    download: Annotated[bool, typer.Option(help="Fetch raw files that are not found.")] = True,
    as_json: Json = False,
) -> None:
    """Read raw files, check every row, and write a data set that the other commands read.

    A data set that is not found under RECSYS_META_DATA is fetched from its publisher, under the publisher's terms.
    """
    skip = _one_of(on_error, get_args(OnError), "--on-error")
    aim = None if objective is None else _one_of(objective, get_args(Objective), "--objective")
    settings = Settings()
    with _progress() as seen:
        if name in SOURCES:
            target = to or settings.prepared / name
            data = prepare_named(
                name,
                target,
                source,
                settings.data,
                skip,
                seen,
                objective=aim,
                positive=positive,
                seed=seed,
                download=download,
            )
        else:
            target = to or settings.prepared / _name_of(name, source)
            data = prepare_custom(name, target, skip, seen, objective=aim, positive=positive)
    _report(data, target, as_json)


def _one_of(value: str, known: tuple[Any, ...], option: str) -> Any:
    if value not in known:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}", param_hint=option)
    return value


def _name_of(path: str, source: Path | None) -> str:
    """The name in a user's schema; checks the file before anything is read."""
    if source is not None:
        raise ConfigError("--source is for built-in data sets; a schema names its files under [files]")
    if not Path(path).exists() and Path(path).suffix not in (".toml", ".inter"):
        raise ConfigError(f"'{path}' is neither a schema file nor one of {', '.join(SOURCES)}")
    return read_custom(Path(path))[0].schema.name


@contextmanager
def _progress() -> Iterator[Seen]:
    """A bar on standard error, one line for each stage."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as shown:
        tasks = {}

        def seen(stage: str, done: float) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=1.0)
            shown.update(tasks[stage], completed=done)

        yield seen


def _report(data: Dataset, target: Path, as_json: bool) -> None:
    found = describe(data)
    if as_json:
        print_json({"path": target, **found})
        return
    about: Any = found["about"]
    out.print(
        f"{escape(data.schema.name)}: {found['events']:,} events of {found['entities']:,} entities "
        f"and {found['items']:,} items in {escape(str(target))}",
        soft_wrap=True,
    )
    for warning in about["warnings"]:
        err.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    if about["rows_rejected"]:
        lost = ", ".join(f"{n:,} of the {t}" for t, n in about["rows_rejected"].items())
        err.print(f"[yellow]bad rows left out:[/] {lost}; reasons in {escape(str(target / REJECTS))}", soft_wrap=True)
    for column in about.get("unused_columns", ()):
        err.print(f"[yellow]column not used:[/] {escape(column)}", soft_wrap=True)


@app.command("describe")
def describe_data(
    directory: Annotated[Path, typer.Argument(help="A prepared directory, or the name of one under HOME/data.")],
    as_json: Json = False,
) -> None:
    """Counts, spread, labels, times and features of a prepared data set."""
    named = Settings().prepared / directory
    folder = named if not directory.exists() and named.is_dir() else directory
    found = describe(open_dataset(folder))
    if as_json:
        print_json({"path": folder, **found})
        return
    print_table(str(found["name"]), ("figure", "value"), list(_lines(found)))
    for side in ("entity_features", "item_features"):
        table: Any = found[side]
        rows = [(c["name"], c["kind"], c.get("values"), c.get("a_row"), c["missing"]) for c in table]
        if rows:
            print_table(side.replace("_", " ").capitalize(), ("feature", "kind", "values", "in a row", "missing"), rows)


def _lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("digest", "entities", "items", "events", "density"):
        yield key, f"{found[key]:,.4g}" if isinstance(found[key], float) else f"{found[key]}"
    for key in ("rows_of_an_entity", "rows_of_an_item", "labels", "time"):
        if found[key]:
            yield key.replace("_", " "), ", ".join(f"{k}: {_short(v)}" for k, v in found[key].items())
    schema = found["schema"]
    yield "objective", schema["objective"] + (f", positive from {schema['positive']:g}" if schema["positive"] else "")
    for key, value in found["about"].items():
        if key not in found and value not in (None, "", [], {}):
            yield key.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@app.command("validate")
def validate_data(
    file: Annotated[Path, typer.Argument(help="A TOML schema, an .inter file, or a prepared directory.")],
    examples: Annotated[int, typer.Option(min=0, help="Bad rows to show.")] = 20,
    as_json: Json = False,
) -> None:
    """Check every row of one's own data, or every byte of a prepared directory; exit 1 when something is wrong."""
    with _progress() as seen:
        report = validate(file, seen, examples)
    if as_json:
        print_json({"path": file, "ok": report.ok, **asdict(report)})
    else:
        counts = f"{report.events:,} good events of {report.entities:,} entities and {report.items:,} items"
        out.print(f"{escape(str(file))}: {counts}", soft_wrap=True)
        if report.rejected:
            lost = ", ".join(f"{n:,} of the {t}" for t, n in report.rejected.items())
            rows = [tuple(e.values()) for e in report.examples]
            print_table(f"Bad rows: {lost}", ("file", "line", "field", "reason", "row"), rows)
    if not report.ok:
        raise typer.Exit(1)
