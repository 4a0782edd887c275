"""Preparing a large log, beside pandas and DuckDB: events a second of processor time, and the most memory that it took.

    python -m benchmarks.preparing --events 1000000 --json benchmarks/results/preparing.json

The log is that of `benchmarks.scale_data`, one Parquet file. Each system numbers entities and items, sorts the events
by entity and time and writes them as columns; ours checks every row and counts as well. Each runs in a process of its
own, one thread, and systems take turns; DuckDB is measured where it is installed, else its rows are left out, which the
result says. That all have as many events and entities is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.machine import machine_facts
from benchmarks.scale_data import make
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.data import prepare
from recsys_meta.data.sources.toml_schema import read_custom

REFERENCE = "pandas"

Counts = tuple[int, int]
"""Numbers of events and of entities."""


def prepare_by_schema(folder: Path, out: Path) -> Counts:
    """Prepare the data set as `recsys-meta data prepare` does."""
    data = prepare(read_custom(folder / "scale.toml")[0], out)
    return len(data.events.item), len(data.events.indptr) - 1


def prepare_by_pandas(folder: Path, out: Path) -> Counts:
    """Number, sort and write the events with pandas."""
    frame = pd.read_parquet(folder / "events.parquet").dropna()
    entity, entities = pd.factorize(frame["user"], sort=True)
    item, items = pd.factorize(frame["item"], sort=True)
    order = np.lexsort((frame["time"].to_numpy(), entity))
    out.mkdir()
    columns = {"entity": entity.astype(np.int32), "item": item.astype(np.int32), "time": frame["time"].to_numpy()}
    for name, values in columns.items():
        np.save(out / f"{name}.npy", values[order])
    for name, values in (("entities", entities), ("items", items)):
        pd.DataFrame({name: values}).to_parquet(out / f"{name}.parquet")
    return len(order), len(entities)


def prepare_by_duckdb(folder: Path, out: Path) -> Counts:
    """Number, sort and write the events with DuckDB."""
    import duckdb

    out.mkdir()
    with duckdb.connect() as database:
        database.execute("SET threads = 1")
        database.execute(f"CREATE VIEW log AS SELECT * FROM '{folder / 'events.parquet'}'")
        for name in ("user", "item"):
            numbers = f'SELECT "{name}", row_number() OVER (ORDER BY "{name}") - 1 AS number FROM log GROUP BY "{name}"'
            database.execute(f"CREATE TABLE {name}s AS {numbers}")
            database.execute(f"COPY {name}s TO '{out / name}s.parquet'")
        database.execute(
            'COPY (SELECT u.number AS entity, i.number AS item, log."time" FROM log JOIN users u ON u."user" = '
            'log."user" JOIN items i ON i."item" = log."item" ORDER BY entity, log."time") '
            f"TO '{out / 'events.parquet'}'"
        )
        events = database.execute(f"SELECT count(*) FROM '{out / 'events.parquet'}'").fetchone()[0]
        return events, database.execute("SELECT count(*) FROM users").fetchone()[0]


SYSTEMS: dict[str, Callable[[Path, Path], Counts]] = {
    "recsys-meta": prepare_by_schema,
    "pandas": prepare_by_pandas,
    "duckdb": prepare_by_duckdb,
}


def run_system(system: str, folder: Path) -> dict[str, Any]:
    """Prepare in a process of its own; its counts, seconds of processor time and peak memory in bytes."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "benchmarks.preparing", "--system", system]
        command += ["--folder", str(folder), "--out", f"{scratch}/out"]
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "ARROW_NUM_THREADS"), "1")
        child = subprocess.Popen(command, env={**os.environ, **one_thread}, stdout=subprocess.PIPE)
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
    if status != 0:
        raise SystemExit(f"{system} failed")
    return {"counts": json.loads(said), "seconds": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss * 1024}


def measure(folder: Path, systems: list[str], rounds: int) -> list[dict[str, Any]]:
    """Rows of all systems, which take turns. Raises SystemExit where one has other counts than the others."""
    runs: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    for _ in range(rounds):
        for system in systems:
            runs[system].append(run_system(system, folder))
    events, entities = runs[REFERENCE][0]["counts"]
    rows = []
    seconds = {system: statistics.median(run["seconds"] for run in runs[system]) for system in systems}
    for system in systems:
        if any(run["counts"] != [events, entities] for run in runs[system]):
            raise SystemExit(f"{system}: {runs[system][0]['counts']} events and entities, not {[events, entities]}")
        peak = statistics.median(run["peak"] for run in runs[system])
        case, ratio = f"{events:,} events", seconds[REFERENCE] / seconds[system]
        rows.append(_row(case, system, events / seconds[system], "events/s", ratio, REFERENCE))
        rows.append(_row(case, system, peak / 2**20, "MiB", None, ""))
    return rows


def _row(case: str, system: str, value: float, unit: str, ratio: float | None, reference: str) -> dict[str, Any]:
    print(f"{case}, {system}: {value:,.0f} {unit}", file=sys.stderr)
    return {"case": case, "system": system, "value": value, "unit": unit, "ratio": ratio, "reference": reference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    for word in ("--system", "--folder", "--out"):  # of a child
        parser.add_argument(word, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.system is not None:
        print(json.dumps(SYSTEMS[given.system](Path(given.folder), Path(given.out))))
        return
    duckdb = "installed" if find_spec("duckdb") else "DuckDB is not installed"
    systems = [name for name in SYSTEMS if name != "duckdb" or find_spec("duckdb")]
    print(f"duckdb: {duckdb}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), given.events, max(given.events // 20, 100), max(given.events // 50, 100))
        rows = measure(Path(folder), systems, given.rounds)
    if given.json is not None:
        machine = machine_facts()
        command = " ".join(["python -m benchmarks.preparing", *sys.argv[1:]])
        content = {"bench": "preparing", "machine": machine, "command": command, "duckdb": duckdb, "rows": rows}
        write_file(given.json, dump_json(content, indent=1).encode())


if __name__ == "__main__":
    main()
