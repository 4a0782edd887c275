"""All benchmarks of speed and memory with small settings, as one table: what `make bench` prints.

    python -m benchmarks.bench_suite --json benchmarks/results/bench-suite.json
    python -m benchmarks.bench_suite --only serving --only adapting

Each runs in a process of its own, one after the other, and compares with its references in the same run; the table has
the rows of all. What is not measured is said beneath it, with the reason: learn2learn where the variable LEARN2LEARN
names no checkout, TorchOpt, DuckDB and `implicit` where they are not installed, an accelerator where there is none, a
benchmark that failed. Figures of a machine that others use say little; each benchmark alone, with the settings that it
has by itself, says more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bench_servers import flagship
from benchmarks.machine import machine_facts
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.data import prepare_named
from recsys_meta.models.bundle import save_bundle

TIMEOUT_S = 1800.0
"""Time after which a benchmark has failed, seconds."""
COLUMNS = ("bench", "case", "system", "value", "unit", "ratio", "reference")
REMARKS = ("learn2learn", "torchopt", "duckdb", "skipped")
"""Keys of a result that say what was not measured, or where it is from."""


@dataclass(frozen=True)
class BenchRun:
    """A benchmark: its module and its arguments, in which `{ratings}`, `{users}` and `{bundle}` are folders of the
    suite's own data."""

    name: str
    module: str
    words: tuple[str, ...]

    def command(self, folders: Mapping[str, str], file: Path) -> list[str]:
        """Command that writes the result to a file."""
        words = [word.format(**folders) for word in self.words]
        return [sys.executable, "-m", self.module, *words, "--json", str(file)]


RUNS = (
    BenchRun("meta-training", "benchmarks.meta_training", ("{ratings}", "--batches", "2", "--rounds", "3")),
    BenchRun("preparing", "benchmarks.preparing", ("--events", "300000", "--rounds", "1")),
    BenchRun("episodes", "pipelines", ("bench", "episodes", "{users}")),
    BenchRun(
        "adapting",
        "benchmarks.adapting",
        ("--items", "4000", "--items", "100000", "--items", "1000000", "--rounds", "5", "--calls", "2"),
    ),
    BenchRun("batch", "benchmarks.batch", ("{bundle}", "--entities", "20000")),
    BenchRun("serving", "benchmarks.serving", ("--rounds", "3", "--seconds", "0.5", "--states", "20000")),
    BenchRun(
        "roofline",
        "benchmarks.gpu",
        ("--device", "cpu", "--tasks", "32", "--repeat", "3", "--width", "1024", "--floats", "16777216"),
    ),
    BenchRun("gpu", "benchmarks.gpu", ()),
)


@dataclass
class SuiteResult:
    """Rows of all benchmarks, each with the benchmark's name, and what is to be said of them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, name: str, content: Mapping[str, Any]) -> None:
        """Add the result of a benchmark."""
        self.rows += [{"bench": name, **row} for row in content["rows"]]
        self.remarks += [f"{name}: {key}: {content[key]}" for key in REMARKS if content.get(key)]


def run_suite(runs: Iterable[BenchRun], folders: Mapping[str, str], scratch: Path) -> SuiteResult:
    """Run benchmarks one after the other. One that fails is a remark with its last line."""
    result = SuiteResult()
    for run in runs:
        print(f"{run.name} ...", file=sys.stderr, flush=True)
        file = scratch / f"{run.name}.json"
        try:
            done = subprocess.run(
                run.command(folders, file), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            result.remarks.append(f"{run.name}: took longer than {TIMEOUT_S:.0f} s")
            continue
        if done.returncode == 0 and file.is_file():
            result.add(run.name, json.loads(file.read_text()))
        else:
            lines = done.stderr.strip().splitlines() or ["it said nothing"]
            result.remarks.append(f"{run.name}: failed with status {done.returncode}: {lines[-1]}")
    return result


def suite_folders(scratch: Path) -> dict[str, str]:
    """Make the data that benchmarks are given: simulated users, also with ratings, and a flagship of 4,000 items."""
    prepare_named("simulated-users", scratch / "users")
    prepare_named("simulated-users", scratch / "ratings", objective="rating")
    bundle = save_bundle(flagship(), scratch / "models")
    return {"users": str(scratch / "users"), "ratings": str(scratch / "ratings"), "bundle": str(bundle)}


def table_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of the table, columns side by side."""
    cells = [COLUMNS, *(tuple(_cell(row[column]) for column in COLUMNS) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if isinstance(value, int | float) else str(value)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=[run.name for run in RUNS], help="this one; may be repeated")
    parser.add_argument("--ratings", help="folder of prepared ratings, for meta-training; else simulated ones")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        folders = suite_folders(Path(scratch))
        if given.ratings is not None:
            folders["ratings"] = given.ratings
        chosen = [run for run in RUNS if given.only is None or run.name in given.only]
        result = run_suite(chosen, folders, Path(scratch))
    print("\n".join([*table_lines(result.rows), "", *result.remarks]))
    if given.json is not None:
        machine = machine_facts()
        command = " ".join(["python -m benchmarks.bench_suite", *(sys.argv[1:] if words is None else words)])
        content = {"bench": "suite", "machine": machine, "command": command, "remarks": result.remarks}
        write_file(given.json, dump_json({**content, "rows": result.rows}, indent=1).encode())


if __name__ == "__main__":
    main()
