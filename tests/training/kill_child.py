"""A real process that trains and saves a checkpoint at every step, to be killed by `test_kill`.

    python -m tests.kill_child DIR     trains (or resumes) in DIR, then writes DIR/final.safetensors
    python -m tests.kill_child         a nursery: for each DIR on a line of its input it forks a child that does so
                                       and prints the child's process id; at the next line, whatever it says, it
                                       waits for the child and prints how it ended

The nursery has imported torch, made the data set and trained once, so that a child begins in a millisecond instead
of two seconds; it has no thread that computes, so that forking it is safe, and a child is a process of its own.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import torch
from safetensors.torch import save

from recsys_meta.core.atomic_io import write_file
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.evaluation.cold_start import cold_start
from recsys_meta.training.checkpoint import last_checkpoint, save_checkpoint
from recsys_meta.training.trainer import fit, from_checkpoint, start_training, to_checkpoint
from tests.fixtures.simulated_datasets import ranking_world
from tests.fixtures.small_datasets import recipe, tiny

STEPS = 24


def world():
    data = ranking_world(entities=40, items=20, rows=6)
    return data, EventIndex.of(data)


def train(folder: Path, data, index) -> None:
    """Train to the end from whatever is there; the weights of the end go to one file."""
    split = split_by_seed(index.entities_with(1), 0)
    run = start_training(tiny(), recipe(epochs=6, tasks=7, patience=99), data, index, split.train, 0)
    found = last_checkpoint(folder)
    if found is not None:
        from_checkpoint(run, found)

    def validate(params):
        return cold_start(run.learner, params, data, index, split.valid, shots=(0, 2)).mean("ndcg@10")

    for _ in fit(run, validate):
        save_checkpoint(folder, to_checkpoint(run), keep=2)
    assert run.step == STEPS
    write_file(folder / "final.safetensors", save({**to_checkpoint(run).tensors, **run.best_params_or_last()}))


def threads() -> set[str]:
    """Names of the threads of this process but the main one."""
    others = [p for p in Path("/proc/self/task").iterdir() if p.name != str(os.getpid())]
    return {(p / "comm").read_text().strip() for p in others}


def nursery() -> None:
    data, index = world()
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), data, index)
    for line in sys.stdin:
        assert threads() <= {"jemalloc_bg_thd"}, "a thread would not survive the fork (the allocator's may)"
        child = os.fork()
        if child == 0:
            code = 1
            try:
                train(Path(line.strip()), data, index)
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)
        # Not before it is asked to: until then the process id stays the child's, even if it has ended.
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        train(Path(sys.argv[1]), *world())
    else:
        nursery()
