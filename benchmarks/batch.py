"""`recsys-meta adapt` on many entities: how many a second, and the most memory that it took.

    python -m benchmarks.batch BUNDLE --entities 1000000 --json benchmarks/results/batch.json

Entities have five events each, drawn by popularity, in no order. Seconds of processor time are beside those of the
clock, which say little on a machine that others use.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import machine_facts
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.core.types import FIRST
from recsys_meta.models.bundle import Bundle, load_bundle

EACH = 5
BLOCK = 500_000


def write_events(bundle: Bundle, entities: int, file: Path) -> None:
    """Write a Parquet file of `EACH` events of each entity, in no order."""
    items = bundle.vocab.values["item"].to_numpy(object)
    chance = bundle.popularity.numpy()[FIRST:].astype(np.float64)
    rng = np.random.default_rng(0)
    entity = rng.permutation(np.repeat(np.arange(entities), EACH))
    schema = pa.schema([("entity", pa.string()), ("item", pa.string()), ("time", pa.int64())])
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, len(entity), BLOCK):
            part = entity[start : start + BLOCK]
            columns = {
                "entity": [f"customer-{n}" for n in part.tolist()],
                "item": items[rng.choice(len(items), len(part), p=chance / chance.sum())].tolist(),
                "time": rng.integers(1_600_000_000, 1_700_000_000, len(part)),
            }
            writer.write_table(pa.table(columns, schema))


def run(bundle: Path, entities: int, folder: Path) -> dict[str, float]:
    """Adapt to so many entities in a process of its own; return seconds and bytes."""
    events, out = folder / "events.parquet", folder / "out.parquet"
    made = load_bundle(bundle)
    write_events(made, entities, events)
    command = [sys.executable, "-m", "pipelines", "adapt", str(bundle), "--events", str(events), "--out", str(out)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    began = time.perf_counter()
    child = subprocess.Popen(command, env=env)
    _, status, used = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    rows = pq.ParquetFile(out).metadata.num_rows if status == 0 else 0
    if rows != entities:
        raise SystemExit(f"{rows} entities came out, {entities} went in (exit {status})")
    return {
        "wall": wall,
        "processor": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss * 1024,
        "in": events.stat().st_size,
        "out": out.stat().st_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--entities", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for entities in given.entities:
        with tempfile.TemporaryDirectory() as folder:
            found = run(given.bundle, entities, Path(folder))
        case = f"{entities:,} entities of {EACH} events"
        figures = [
            ("entities a second of processor time", entities / found["processor"], "1/s"),
            ("entities a second", entities / found["wall"], "1/s"),
            ("peak memory", found["peak"] / 2**20, "MiB"),
            ("events, Parquet", found["in"] / 2**20, "MiB"),
            ("answers, Parquet", found["out"] / 2**20, "MiB"),
        ]
        for system, value, unit in figures:
            print(f"{case}: {system}: {value:,.0f} {unit}", file=sys.stderr)
            rows.append({"case": case, "system": system, "value": value, "unit": unit, "ratio": None, "reference": ""})
    if given.json is not None:
        machine = machine_facts()
        command = " ".join(["python -m benchmarks.batch", *sys.argv[1:]])
        content = {"bench": "batch", "machine": machine, "command": command, "rows": rows}
        write_file(given.json, dump_json(content, indent=1).encode())


if __name__ == "__main__":
    main()
