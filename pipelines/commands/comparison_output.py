"""Comparisons on the terminal and in files, and the options that `evaluate` and `compare` share."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from pipelines.console import err, out
from pipelines.experiments import report
from pipelines.experiments.comparison import Comparison, as_json
from pipelines.experiments.comparison_run import baselines_for
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Order

OrderOption = Annotated[
    str | None, typer.Option("--order", help="Draw supports by time or random; default: the data's.")
]
MinQuery = Annotated[int | None, typer.Option(min=1, help="Query rows a newcomer needs to count at a point.")]


def command_line() -> str:
    """Command as it was typed, without the path of the program."""
    return shlex.join(["recsys-meta", *sys.argv[1:]])


def print_comparison(results: Sequence[Comparison], json_file: Path | None = None, html: Path | None = None) -> None:
    """Print tables and paired tests; write JSON and reports if given (a folder for each of several scenarios)."""
    for result in results:
        _print(result)
    for name, seconds in {m.name: m.seconds for r in results for m in r.methods if m.seconds}.items():
        err.print(f"[dim]{name}: trained in at most {seconds:.0f} s a seed[/]")
    if json_file is not None:
        content = as_json(results, command_line(), datetime.now(UTC).isoformat())
        write_file(json_file, json.dumps(content, indent=1).encode())
        err.print(f"[dim]wrote {escape(str(json_file))}[/]", soft_wrap=True)
    if html is not None:
        for result in results:
            folder = html if len(results) == 1 else html / result.scenario.partition("/")[0]
            for path in report.write_report(result, folder, command_line()):
                err.print(f"[dim]wrote {escape(str(path))}[/]", soft_wrap=True)


def _print(result: Comparison) -> None:
    metric = result.metrics[0]
    out.print(report.curve_table(result, metric))
    lines = result.against_best_baseline(metric)
    if lines:
        out.print(
            f"\n[bold]{lines[0].method}[/] less the best baseline at each point, paired over newcomers, 95% interval:"
        )
    for v in lines:
        out.print("  " + report.verdict(v), soft_wrap=True)
    out.print()


def parse_names(text: str) -> tuple[str, ...]:
    """Parse names separated by commas; "none" is no name."""
    return () if text == "none" else tuple(n.strip() for n in text.split(",") if n.strip())


def parse_baselines(text: str, data: Any) -> list[str]:
    """Parse names of baselines: all, none, or names separated by commas. Raises NotFoundError for an unknown one."""
    return (
        [] if text == "none" else baselines_for(data, None if text == "all" else [n.strip() for n in text.split(",")])
    )


def parse_order(text: str | None) -> Order | None:
    """Parse --order. Raises ConfigError for anything but time and random."""
    match text:
        case None | "time" | "random":
            return text
        case _:
            raise ConfigError("--order is time or random")
