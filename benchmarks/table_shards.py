"""Memory of each process of a training whose table of items is sharded over them, or whole in each.

    torchrun --nproc-per-node 2 -m benchmarks.table_shards --items 2000000 --width 64
    torchrun --nproc-per-node 2 -m benchmarks.table_shards --items 2000000 --width 64 --whole

takes steps of second-order MAML on random ratings, validates once, and prints for each process the bytes of values,
moments, averages and best values that it holds, its resident memory then, at its peak, and seconds of processor time a
step.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipelines.experiments.thread_count import fixed_threads
from pipelines.experiments.training_processes import training_group
from recsys_meta.core.dataset import Dataset
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.conformance.simulated_worlds import build_dataset
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig
from recsys_meta.training.recipe import recipe_of
from recsys_meta.training.shard_plan import shard_tables
from recsys_meta.training.trainer import TrainingRun, fit, start_training

MEBIBYTE = 1 << 20


def random_ratings(items: int, entities: int = 2_000, rows: int = 40) -> Dataset:
    """Ratings of items drawn evenly from a catalogue of so many."""
    rng = np.random.default_rng(0)
    item = rng.integers(0, items, (entities, rows))
    item[0, 0] = items - 1
    return build_dataset("random-ratings", "rating", list(item), list(rng.normal(size=item.shape)))


def measure(items: int, width: int, whole: bool, steps: int) -> dict[str, Any]:
    """Figures of this process after so many steps."""
    data = random_ratings(items)
    index = EventIndex.of(data)
    learner = Maml(MamlConfig(objective="rating", dims=width))
    recipe = recipe_of(
        {
            "name": "table-shards",
            "learner": learner.name,
            "config": learner.config.model_dump(mode="json"),
            "train": {"most_steps": steps, "validate_steps": steps, "average": 0.9, "shard_above": 0 if whole else 1},
        }
    )
    with training_group() as group:
        run = start_training(learner, recipe, data, index, index.entities_with(2), 0, group=group)
        said, seconds, began = shard_tables(run), [], time.process_time()
        for _ in fit(run, lambda _: 0.0):
            seconds.append(time.process_time() - began)
            began = time.process_time()
        return {
            "process": 0 if group is None else group.rank,
            "processes": 1 if group is None else group.size,
            "tables": said or "whole",
            "held_mebibytes": held_bytes(run) / MEBIBYTE,
            "resident_mebibytes": resident_bytes() / MEBIBYTE,
            "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            # Without the last step, which validates.
            "step_seconds": statistics.median(seconds[1:-1]),
        }


def held_bytes(run: TrainingRun) -> int:
    """Bytes of the table of items, its moments, its average and its best values."""
    tensors: list[Tensor] = [run.params["item"], *run.optimiser.state[run.params["item"]].values()]
    tensors += [params["item"] for params in (run.average_params, run.best_params) if "item" in params]
    return sum(t.numel() * t.element_size() for t in tensors)


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure and print a line for each process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=2_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--whole", action="store_true", help="keep the table whole in every process")
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    with fixed_threads(1):
        row = measure(given.items, given.width, given.whole, given.steps)
    print(row, flush=True)


if __name__ == "__main__":
    main()
