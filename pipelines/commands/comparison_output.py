"""Comparisons on the terminal and in files, and the options that `evaluate` and `compare` share."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from pipelines.console import err, is_narrow, out, print_rich
from pipelines.experiments import report, summary_report
from pipelines.experiments.comparison import Comparison, JsonPart, as_json, json_part, merge_json
from pipelines.experiments.dataset_sources import DatasetSource
from pipelines.experiments.dataset_summary import DatasetFailure, DatasetSummary, outcome_of, scenario_labels
from pipelines.experiments.tuned_baselines import baselines_for
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.json_text import dump_json
from recsys_meta.core.schema import Order
from recsys_meta.episodes.splits import split_rule

OrderOption = Annotated[
    str | None, typer.Option("--order", help="Draw supports by time or random; default: the data's.")
]
SplitOption = Annotated[
    str,
    typer.Option(
        "--split",
        help="How entities are split: seed, time, seed:N for the split of seed N whatever the run's is, or hash:N by a "
        "hash of their ids, whose parts stay as data grow.",
    ),
]
PlotsFolder = Annotated[
    Path | None, typer.Option("--plots", help="Write the curve of each metric as PNG and SVG into this folder.")
]
MinQuery = Annotated[int | None, typer.Option(min=1, help="Query rows a newcomer needs to count at a point.")]


_WIDE = 130  # columns that the costs of methods need beside their curves


def command_line() -> str:
    """Command as it was typed, without the path of the program."""
    return shlex.join(["recsys-meta", *sys.argv[1:]])


def print_comparison(
    results: Sequence[Comparison], json_file: Path | None = None, html: Path | None = None, plots: Path | None = None
) -> None:
    """Print tables, paired tests and warnings; write JSON, reports and plots if given (a folder for each scenario)."""
    for result in results:
        _print(result)
    if json_file is not None:
        _write_json(json_file, as_json(results, command_line(), datetime.now(UTC).isoformat()))
    for result, label in zip(results, scenario_labels([r.scenario for r in results]), strict=True):
        part = "" if len(results) == 1 else label
        paths = [] if html is None else report.write_report(result, html / part, command_line())
        paths += [] if plots is None else report.write_plots(result, plots / part)
        for path in paths:
            _print_written(path)
    # Scenarios of one comparison share their baselines, and so what is to be said of them.
    _print_warnings(warning for result in results for warning in result.warnings)
    _print_failed_methods(results)


def _print_warnings(warnings: Iterable[str]) -> None:
    """Print each distinct warning."""
    for warning in dict.fromkeys(warnings):
        err.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)


def _print_failed_methods(results: Iterable[Comparison]) -> None:
    """Print each method that failed; scenarios of one comparison share them."""
    for failure in dict.fromkeys(failure for result in results for failure in result.failures):
        text = f"{failure.method}, seed {failure.seed}: {failure.reason}"
        err.print(f"[red]failed:[/] {escape(text)}", soft_wrap=True)


def exit_status(results: Iterable[Comparison]) -> int:
    """Exit status of a command: 1 if a method failed, else 0."""
    return int(any(result.failures for result in results))


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    write_file(file, dump_json(content, indent=1).encode())
    _print_written(file)


def _print_written(file: Path) -> None:
    err.print(f"[dim]wrote {escape(str(file))}[/]", soft_wrap=True)


def require_writable(json_file: Path | None, html: Path | None, plots: Path | None = None) -> None:
    """Make the folders of the output, so that a wrong path is known before the training.

    Raises ConfigError where one cannot be made, or where the JSON file is a folder.
    """
    try:
        for folder in (html, plots, json_file and json_file.parent):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written into: {error.strerror}") from None
    if json_file is not None and json_file.is_dir():
        raise ConfigError(f"{json_file}: is a folder; --json names a file")


class SummaryOutput:
    """Output of a comparison on several data sets: that of each when it is done, and a summary of all in the end.

    The JSON file is written anew after each data set, so that whatever stops the command costs the rest only.
    """

    def __init__(self, json_file: Path | None = None, html: Path | None = None, plots: Path | None = None) -> None:
        self._json_file, self._html, self._plots = json_file, html, plots
        self._summary = DatasetSummary()
        self._parts: list[JsonPart] = []
        self._folders: list[str] = []
        self._warnings: list[str] = []
        self._failed = 0

    def add(self, source: DatasetSource, results: Sequence[Comparison]) -> None:
        """Print the results of a data set, and write its report and the JSON file so far."""
        self._summary.outcomes += [outcome_of(result, source.given) for result in results]
        self._warnings += [f"{source.label}: {w}" for result in results for w in result.warnings]
        self._parts += [json_part(result, with_dataset=True) for result in results]
        self._failed |= exit_status(results)
        folder = _folder_name(source.label, {f.partition("/")[0] for f in self._folders})
        labels = scenario_labels([r.scenario for r in results])
        self._folders += [folder if len(results) == 1 else f"{folder}/{label}" for label in labels]
        self._write_json()
        html, plots = (None if base is None else base / folder for base in (self._html, self._plots))
        print_comparison(results, html=html, plots=plots)

    def add_failure(self, failure: DatasetFailure) -> None:
        """Print that a data set failed, now and in the end."""
        self._summary.failures.append(failure)
        _print_failure(failure)

    def finish(self) -> int:
        """Print and write the summary; return the exit status, 1 if a data set or a method failed."""
        self._write_json()
        if self._summary.outcomes:
            print_rich(summary_report.verdict_table(self._summary))
            out.print()
            print_rich(summary_report.rank_table(self._summary))
            out.print()
            out.print(escape(summary_report.largest_loss_line(self._summary)), soft_wrap=True)
        if self._html is not None and self._summary.outcomes:
            for path in summary_report.write_summary(self._summary, self._folders, self._html, command_line()):
                _print_written(path)
        _print_warnings(self._warnings)
        for failure in self._summary.failures:
            _print_failure(failure)
        return 1 if self._summary.failures else self._failed

    def _write_json(self) -> None:
        if self._json_file is not None:
            content = merge_json(self._parts, command_line(), datetime.now(UTC).isoformat())
            _write_json(self._json_file, {**content, "datasets": self._summary.as_json()})


def _print_failure(failure: DatasetFailure) -> None:
    err.print(f"[red]failed:[/] {escape(failure.dataset)}: {escape(failure.reason)}", soft_wrap=True)


def _folder_name(label: str, used: Collection[str]) -> str:
    """Name of a folder for a label, without slashes or blanks, that is not used yet."""
    name = re.sub(r"[^\w.-]+", "-", label).strip("-.") or "data"
    return next(n for n in chain([name], (f"{name}-{i}" for i in count(2))) if n not in used)


def _print(result: Comparison) -> None:
    metric = result.metrics[0]
    narrow = is_narrow(_WIDE)
    print_rich(report.curve_table(result, metric, with_costs=not narrow))
    if narrow and report.has_costs(result):
        out.print()
        print_rich(report.cost_table(result))
    if result.is_catalogue_shrinking:
        out.print(report.SHRINKING, style="dim")
    if result.shares:
        out.print()
        print_rich(report.share_table(result))
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


def parse_split(text: str) -> str:
    """Parse --split. Raises BadParameter for anything but seed, seed:N, hash:N and time."""
    try:
        split_rule(text, 0)
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--split") from None
    return text


def parse_order(text: str | None) -> Order | None:
    """Parse --order. Raises ConfigError for anything but time and random."""
    match text:
        case None | "time" | "random":
            return text
        case _:
            raise ConfigError("--order is time or random")
