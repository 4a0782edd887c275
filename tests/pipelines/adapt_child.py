"""A real `recsys-meta adapt` that is killed again and again, for `test_adapting`.

    python -m tests.pipelines.adapt_child KILLS ADAPT-ARGUMENTS...

Forks a child that adapts, kills it at a random instant, and so on; the last child is left alone. Prints, for each one
killed, what it left: {"made": files, "job": whether the job was described}. Importing torch once, not for each child,
leaves time for many kills.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import torch

from pipelines.batch import entity_partitioning as spreading
from pipelines.batch import event_files as told
from pipelines.cli import main
from pipelines.commands import recommend  # the command, which children would else import each anew

assert recommend
spreading.PARTITION_ROWS, spreading.MAX_OPEN_FILES, told.BLOCK_ROWS = 60, 4, 250


def child(arguments: list[str]) -> int:
    """Begin to adapt; answers the process id."""
    pid = os.fork()
    if pid:
        return pid
    sys.argv = ["recsys-meta", "adapt", *arguments]
    sys.stdout = sys.stderr = io.StringIO()
    try:
        main()
    except SystemExit as left:
        os._exit(int(left.code or 0))
    os._exit(0)


def lived(pid: int) -> int:
    """How a child ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(kills: int, arguments: list[str]) -> None:
    out = Path(arguments[arguments.index("--out") + 1])
    work = out.parent / f".adapt-{out.name}"
    began = time.monotonic()
    assert lived(child([*arguments[:-1], f"{out}.first"])) == 0
    span, rng, before = 0.5 * (time.monotonic() - began), random.Random(0), 0
    for _ in range(kills):
        pid = child(arguments)
        time.sleep(rng.uniform(0, span))
        os.kill(pid, signal.SIGKILL)
        ended = lived(pid)
        made = len(list((work / "made").glob("*.parquet")))
        print(json.dumps({"ended": ended, "made": made, "job": (work / "job.json").exists(), "out": out.exists()}))
        # A machine may get busier or idler than it was: one that comes to nothing gets longer, one that ends shorter.
        span *= 0.5 if ended == 0 else 1.5 if made <= before else 1.0
        before = made
    print(json.dumps({"ended": lived(child(arguments))}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(int(sys.argv[1]), sys.argv[2:])
