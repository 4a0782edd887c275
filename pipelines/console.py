"""Output and options that the commands share: JSON, tables, progress bars, support sizes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from recsys_meta.core.json_text import dump_json

COMMAND = "recsys-meta"

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write machine-readable results to this file.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="Rows at most.")]
ModelArgument = Annotated[str, typer.Argument(help="Model name.")]


def command_name() -> str:
    """Return how the command of this installation is typed in the shell: by name where that is found, else by path."""
    own = Path(sys.executable).parent / COMMAND
    found = shutil.which(COMMAND)
    if found is not None and (not own.is_file() or Path(found).resolve() == own.resolve()):
        return COMMAND
    if not own.is_file():
        return f"{_short_path(Path(sys.executable))} -m pipelines"
    return _short_path(own)


def with_command(text: str) -> str:
    """Return a text whose hints, `recsys-meta ...` in backquotes or at its start, work when they are typed as they
    stand."""
    name = command_name()
    return text if name == COMMAND else re.sub(rf"(^|`|: ){COMMAND} ", lambda match: f"{match[1]}{name} ", text)


def _short_path(path: Path) -> str:
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output, times in ISO 8601, numbers that are not finite as null."""
    sys.stdout.write(dump_json(value, indent=2) + "\n")


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    unwrapped: Collection[str] = ("run",),
    whole_names: Collection[str] = (),
) -> None:
    """Print a table, with columns of numbers set flush right.

    Times are not wrapped, nor columns whose values users type again (`unwrapped`); of those in `whole_names` the name
    is not, though the values may be. Off a terminal nothing is wrapped. Text is escaped: an id may look like markup.
    """
    table = Table(title=escape(title), show_edge=False, pad_edge=False)
    for i, name in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[i], int | float | None) for row in rows)
        times = bool(rows) and all(isinstance(row[i], datetime | None) for row in rows)
        table.add_column(
            name,
            justify="right" if numbers else "left",
            overflow="fold",
            no_wrap=times or name in unwrapped,
            min_width=len(name) if name in whole_names else None,
        )
    for row in rows:
        table.add_row(*(escape(_cell(v)) for v in row))
    print_rich(table)


def print_rich(table: Table) -> None:
    """Print a table; off a terminal as wide as it is, so that every row is a line and no id is broken for programs."""
    title, table.title = table.title, None
    if title:  # on a line of its own: a version in it is not broken where the table is narrow
        out.print(f"[bold]{title}[/]", soft_wrap=True)
    if out.is_terminal or "COLUMNS" in os.environ:
        out.print(table)
    else:
        wide = Console(file=out.file, width=10_000, highlight=False)
        wide.print(table, width=wide.measure(table).maximum, crop=False)


def is_narrow(width: int) -> bool:
    """Return whether a table of so many columns has to be broken; off a terminal none has."""
    return (out.is_terminal or "COLUMNS" in os.environ) and out.width < width


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return str(value)


def progress_bar(description: str = "") -> Progress:
    """Return a progress bar on standard error: steps done and total, time remaining and elapsed; 80 columns hold it."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),  # the last, as it may be cut
        TimeElapsedColumn(),
        console=err,
        transient=True,
    )


def parse_shots(text: str | None) -> tuple[int, ...] | None:
    """Parse support sizes, '0,1,3' to (0, 1, 3); None stays None. Raises typer.BadParameter."""
    if text is None:
        return None
    try:
        shots = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 0,1,3,5,10,20") from None
    if not shots or min(shots) < 0 or len(set(shots)) != len(shots):
        raise typer.BadParameter("shots must be distinct and not negative")
    return tuple(sorted(shots))


def _validate_shots(text: str | None) -> str | None:
    parse_shots(text)
    return text


Shots = Annotated[
    str | None,
    typer.Option(help="Support sizes of the curve, as 0,1,3; default: the data set's.", callback=_validate_shots),
]
