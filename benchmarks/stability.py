"""Spread over seeds: how far the mean of a method moves with another split, and with another training on one split.

    recsys-meta compare --dataset D --split seed:0 --seeds 5 --learners flagship --baselines B --json training.json
    for i in 0 1 2 3 4; do recsys-meta compare --dataset D --split seed:$i --seeds 1 ... --json split-$i.json; done
    python -m benchmarks.stability --training training.json --split split-*.json --json FILE

The first command keeps the split and varies the seed of the training (initialisation, episodes, batches, and what
baselines draw); the second keeps the seed of the training and varies who is new. Printed are standard deviations over
seeds of the mean over newcomers, for each method and number of events.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json

Key = tuple[str, str, int]
"""Data set, method and number of support rows."""


def seed_means(files: Sequence[Path], metric: str) -> dict[Key, list[float]]:
    """Mean of each seed over newcomers, in the files' order. Raises ValueError for a file without such rows."""
    means: dict[Key, list[float]] = defaultdict(list)
    for file in files:
        rows = [r for r in json.loads(file.read_text())["rows"] if r["metric"] == metric and r["seed"] is not None]
        if not rows:
            raise ValueError(f"{file}: no rows of '{metric}' by seed; is it a result of compare --json?")
        for row in rows:
            means[row["dataset"], row["method"], row["shots"]].append(row["value"])
    return dict(means)


def spreads(training: Mapping[Key, Sequence[float]], split: Mapping[Key, Sequence[float]]) -> list[dict[str, object]]:
    """Row of each data set, method and number of events with two seeds or more either way."""
    return [
        {
            "dataset": dataset,
            "method": method,
            "shots": shots,
            "mean": float(np.mean(split[dataset, method, shots])),
            "training": float(np.std(values, ddof=1)),
            "split": float(np.std(split[dataset, method, shots], ddof=1)),
            "seeds": [len(values), len(split[dataset, method, shots])],
        }
        for (dataset, method, shots), values in training.items()
        if min(len(values), len(split.get((dataset, method, shots), ()))) > 1
    ]


def print_spreads(rows: Sequence[Mapping[str, object]]) -> None:
    """Print a line for each method: its mean, and the two deviations, at each number of events."""
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        print(f"{dataset}: mean (deviation by training / by split)")
        for method in dict.fromkeys(row["method"] for row in rows if row["dataset"] == dataset):
            points = [row for row in rows if (row["dataset"], row["method"]) == (dataset, method)]
            cells = (f"{r['shots']}: {r['mean']:.3f} ({r['training']:.4f} / {r['split']:.4f})" for r in points)
            print(f"  {method:24s}", "  ".join(cells))


def main() -> None:
    """Read results of comparisons and print the spread of each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=Path, nargs="+", required=True, help="one split, several seeds of training")
    parser.add_argument("--split", type=Path, nargs="+", required=True, help="one seed of training, several splits")
    parser.add_argument("--metric", default="ndcg@10")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = spreads(seed_means(options.training, options.metric), seed_means(options.split, options.metric))
    print_spreads(rows)
    if options.json is not None:
        command = shlex.join(["python", "-m", "benchmarks.stability", *sys.argv[1:]])
        write_file(options.json, dump_json({"command": command, "metric": options.metric, "rows": rows}).encode())


if __name__ == "__main__":
    main()
