"""Studies with and without an earlier one on data that look alike: the best value after each trial.

    recsys-meta data prepare simulated-users
    recsys-meta data prepare movielens-100k
    python -m benchmarks.tuning_transfer var/data/simulated-users var/data/movielens-100k --json FILE

For each seed a study is made on the first data set, then one on the second that finds it in the database by its
meta-features, and one on the second in a database of its own. Both have the same recipe, space, seed and number of
trials; what differs is where they begin. The best value on meta-validation so far is given by the trial.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from pipelines.experiments.training_inputs import open_training_inputs
from pipelines.tuning.open_study import begin_study
from pipelines.tuning.search_space import find_search_space
from pipelines.tuning.tuning_run import run_study
from pipelines.workspace import Workspace, find_recipe
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.store.settings import Settings


def search(workspace: Workspace, dataset: Path, trials: int, given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Run a study: what it began with, the trials' origins and values, and the best value after each of them."""
    began = time.process_time()
    recipe = find_recipe(given.recipe, given.set)
    inputs = open_training_inputs(workspace, str(dataset.resolve()), seed=seed)
    space = find_search_space(given.space, recipe)
    study = begin_study(workspace, dataset.name, recipe, space, inputs, trials=trials, steps=given.steps)
    result = run_study(workspace, study, threads=1)
    better = min if study.record.direction == "minimize" else max
    values = [t.value for t in result.trials]
    worst = float("inf") if better is min else float("-inf")
    best = accumulate((worst if v is None else v for v in values), better)
    return {
        "dataset": dataset.name,
        "like": [{"dataset": s.dataset, "distance": round(s.distance, 3)} for s in study.similar],
        "origins": [t.origin for t in result.trials],
        "values": values,
        "best": list(best),
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def transfer(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Studies of one seed: the earlier one, the one that knows of it, and the one that does not."""
    with tempfile.TemporaryDirectory() as shared, tempfile.TemporaryDirectory() as alone:
        house = Workspace(Settings(home=Path(shared)))
        earlier = search(house, given.first, given.earlier, given, seed)
        warm = search(house, given.second, given.trials, given, seed)
        cold = search(Workspace(Settings(home=Path(alone))), given.second, given.trials, given, seed)
    return {"seed": seed, "earlier": earlier, "warm": warm, "cold": cold}


def main(words: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="folder of the prepared data set of the earlier study")
    parser.add_argument("second", type=Path, help="folder of the one that is studied with it and without")
    parser.add_argument("--recipe", default="benchmarks/recipes/poor-start.toml")
    parser.add_argument("--space", default="flagship")
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipe")
    parser.add_argument("--earlier", type=int, default=20, help="trials of the earlier study")
    parser.add_argument("--trials", type=int, default=8, help="trials of each study on the second data set")
    parser.add_argument("--steps", type=int, default=100, help="most steps of a trial")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file of the results")
    given, rows = parser.parse_args(words), []
    command = "python -m benchmarks.tuning_transfer " + " ".join(map(str, words or sys.argv[1:]))
    for seed in range(given.seeds):
        rows.append(transfer(given, seed))
        for name in ("earlier", "warm", "cold"):
            best = " ".join(f"{value:.4f}" for value in rows[-1][name]["best"])
            print(f"seed {seed}, {name} on {rows[-1][name]['dataset']}: {best}")
        if given.json:
            write_file(
                given.json, dump_json({"bench": "transfer", "command": command, "rows": rows}, indent=1).encode()
            )


if __name__ == "__main__":
    main()
