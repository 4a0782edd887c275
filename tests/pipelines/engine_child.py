"""A real `recsys-meta adapt --engine ray` in the middle of which somebody dies, for `test_engines`.

    python -m tests.pipelines.engine_child itself|workers WRITES ADAPT-ARGUMENTS...

When it is about to write for the time numbered WRITES it prints as a line of JSON the names of the processes that work
in its folder and the addresses at which these listen, and kills itself, or those that answer for it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.batch import batch_inference as adapted
from pipelines.batch import entity_partitioning as spreading
from pipelines.batch import event_files as told
from pipelines.cli import main
from tests.pipelines.processes import AGENTS, inhabitants, listening

adapted.MAX_ENTITIES, spreading.PARTITION_ROWS, spreading.MAX_OPEN_FILES, told.BLOCK_ROWS = 5, 60, 4, 250


def run(whom: str, writes: int, arguments: list[str]) -> None:
    real, written = pq.ParquetWriter.write_table, []

    def write(self, *words):
        written.append(1)
        if len(written) == writes:
            here = inhabitants(Path.cwd())
            seen = {"names": sorted(here.values()), "listening": sorted(listening(here))}
            print(json.dumps(seen), file=sys.__stdout__, flush=True)
            workers = [n for n, name in here.items() if name.startswith("ray::") and name not in AGENTS]
            for one in [os.getpid()] if whom == "itself" else workers:
                os.kill(one, signal.SIGKILL)
        return real(self, *words)

    pq.ParquetWriter.write_table = write
    sys.argv = ["recsys-meta", "adapt", *arguments]
    main()


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
