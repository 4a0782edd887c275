"""Time of a training step as data grow: the flagship's recipe with sampled softmax on several sizes, in turn.

    python -m benchmarks.scale_steps DATA ... --json benchmarks/results/scale-steps.json

Each DATA is a prepared folder (`benchmarks.scale_data`). All runs are started, then each takes a few steps in turn, so
that all meet the same load; seconds are of the processor, medians over steps. Resident memory is that of the whole
process after each start, so with the data sets from small to large a difference is what a run takes before its first
step; with one data set the peak is that of its run.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import machine_facts
from pipelines.experiments.recipe_learner import NEGATIVES, learner_of
from pipelines.experiments.thread_count import fixed_threads
from pipelines.experiments.training_inputs import training_inputs
from pipelines.workspace import find_recipe
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.core.types import FIRST
from recsys_meta.data import open_dataset
from recsys_meta.training.trainer import TrainStep, fit, start_training


@dataclass
class TimedRun:
    """Run on one data set: its sizes, the processor seconds of its start, and those of each step."""

    sizes: dict[str, int]
    start: float
    steps: Iterator[TrainStep]
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def begin(cls, folder: Path) -> TimedRun:
        """Open a prepared data set and start a run on it."""
        data, began = open_dataset(folder), time.process_time()
        inputs = training_inputs(data, str(folder), scenario="new", split="seed", seed=0)
        recipe = find_recipe("flagship", [f"config.negatives={NEGATIVES}", "train.validate_steps=1000000"])
        run = start_training(learner_of(recipe, data), recipe, data, inputs.train_index, inputs.split.train, 0)
        sizes = {"events": len(data.events), "users": data.events.entity_count, "items": data.catalogue - FIRST}
        sizes["resident_mebibytes"] = peak_mebibytes()
        return cls(sizes, time.process_time() - began, fit(run, lambda _: 0.0))

    def take_step(self) -> None:
        """Take one step."""
        began = time.process_time()
        next(self.steps)
        self.seconds.append(time.process_time() - began)


def peak_mebibytes() -> int:
    """Peak resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(folders: Sequence[Path], rounds: int, warm: int) -> list[dict[str, Any]]:
    """Rows of each data set: seconds to start and of a step, and the step's ratio to that of the first data set."""
    runs = [TimedRun.begin(folder) for folder in folders]
    for _ in range(warm + rounds):
        for run in runs:
            run.take_step()
    medians = [statistics.median(run.seconds[warm:]) for run in runs]
    return [
        {**run.sizes, "start_seconds": run.start, "step_seconds": value, "ratio": value / medians[0]}
        for run, value in zip(runs, medians, strict=True)
    ]


def main() -> None:
    """Measure and print; write JSON where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with fixed_threads(1):
        rows = measure(given.data, given.rounds, given.warm)
    for row in rows:
        print(row)
    if given.json is not None:
        machine = machine_facts()
        command = " ".join(["python -m benchmarks.scale_steps", *sys.argv[1:]])
        content = {"bench": "scale-steps", "machine": machine, "command": command, "rows": rows}
        content["peak_mebibytes"] = peak_mebibytes()
        write_file(given.json, dump_json(content, indent=1).encode())


if __name__ == "__main__":
    main()
