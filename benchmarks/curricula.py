"""Curricula, task augmentation and remedies of meta-overfitting at equal steps: does any of them pay?

    recsys-meta data prepare simulated-users
    python -m benchmarks.curricula var/data/simulated-users --json benchmarks/results/curricula-simulated-users.json
    python -m benchmarks.curricula var/data/simulated-users --remedies --json FILE

Every way trains the recipe's learner alone, from the same start on the same split, for the same steps with the same
validations; what is best on meta-validation is calibrated and measured on meta-test entities. A way is compared with
the first one (uniform sampling; of remedies, MAML without any) by seed: mean difference, positive where the way is
better, and its 95% interval over seeds (Student's t); the steps saved until meta-validation has risen by nine tenths
of what it rises by under the first way; and, since a curriculum that needs feedback measures hardness on top, the best
on meta-validation after as much processor time as the first way took. Of remedies the gap is measured too: what
meta-training tasks have over meta-validation tasks at the last step, before anything is chosen.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from pipelines.experiments.meta_validation import calibration_episodes, training_criterion, validation_of
from pipelines.experiments.recipe_learner import learner_of
from pipelines.experiments.thread_count import fixed_threads
from pipelines.experiments.training_inputs import TrainingInputs, default_shots, training_inputs
from pipelines.workspace import find_recipe
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.data import open_dataset
from recsys_meta.evaluation.cold_start import cold_start
from recsys_meta.evaluation.evaluate_batch import metric_names
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.training.recipe import Recipe
from recsys_meta.training.trainer import fit, start_training

UNIFORM = "uniform"
ROWS = 500
RISE = 0.9
"""Share of the first way's rise on meta-validation that is waited for, where steps are counted."""


def ways(steps: int) -> dict[str, tuple[str, ...]]:
    """Settings of a recipe by the name of a way to draw or change tasks."""
    return {
        UNIFORM: (),
        "hardness": ("curriculum.name=hardness",),
        "progress": ("curriculum.name=progress",),
        "progress, sharper": ("curriculum.name=progress", "curriculum.config={explore=0.2, sharpness=4.0}"),
        "self-paced": ("curriculum.name=self-paced",),
        "many events to few": (f"episodes.shrink_steps={steps // 4}",),
        "rows left out": ("augmentation.drop_rows=0.2",),
        "tasks mixed": ("augmentation.mix=0.2",),
    }


PLAIN = "maml"


def remedies() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Recipe and settings by the name of a remedy of meta-overfitting; the first is none."""
    bare = ("config.dropout=0.0",)
    return {
        PLAIN: (PLAIN, bare),
        "dropout": (PLAIN, ("config.dropout=0.3",)),
        "weight decay": (PLAIN, (*bare, "config.decay=0.3")),
        "rows left out": (PLAIN, (*bare, "augmentation.drop_rows=0.2")),
        "tasks mixed": (PLAIN, (*bare, "augmentation.mix=0.2")),
        "meta-dropout": ("meta-dropout", bare),
        "meta-regularization": ("meta-regularization", bare),
        "rows reweighted (meta-weight-net)": ("meta-weight-net", bare),
    }


def train_way(inputs: TrainingInputs, recipe: Recipe, *, measure_gap: bool = False) -> dict[str, Any]:
    """Train once: the mean over the curve of meta-test, the validations by step, and seconds of processor time."""
    learner, began, data = learner_of(recipe, inputs.data), time.process_time(), inputs.data
    run = start_training(learner, recipe, data, inputs.train_index, inputs.split.train, inputs.seed)
    steps = [(s.step, s.valid) for s in fit(run, validation_of(learner, inputs, recipe)) if s.valid is not None]
    params = {k: v.detach() for k, v in {**run.current_params(), **run.best_params}.items()}
    params = learner.calibrate(params, calibration_episodes(inputs, recipe))
    shots, test = default_shots(data, inputs.scenario), inputs.split.test
    curve = cold_start(
        learner, params, data, inputs.index, test, shots=shots, seed=inputs.seed, max_rows=ROWS, lists=False
    )
    value = curve.mean(metric_names(data)[0])
    row = {"value": value, "validations": steps, "cpu_seconds": time.process_time() - began}
    if measure_gap:
        last = {k: v.detach() for k, v in run.current_params().items()}
        row["gap"] = training_criterion(learner, inputs, recipe)(last) - steps[-1][1]
    return row


def less_first(rows: Sequence[dict[str, Any]], way: str, first: str, metric: str) -> dict[str, Any]:
    """Compare a way with the first one over the seeds that both have; positive where it is better."""
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    pairs = _pairs(rows, way, first)
    found = _over_seeds([sign * (ours["value"] - theirs["value"]) for ours, theirs in pairs])
    return {"way": way, **found, "seeds": len(pairs), **_courses(pairs)}


def _pairs(rows: Sequence[dict[str, Any]], way: str, first: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows of a way and of the first one, by the seeds that both have."""
    ours, theirs = ({r["seed"]: r for r in rows if r["way"] == name} for name in (way, first))
    return [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]


def _over_seeds(differences: Sequence[float]) -> dict[str, float]:
    """Mean of one number a seed, and its 95% interval (Student's t)."""
    numbers = np.asarray(differences, np.float64)
    error = numbers.std(ddof=1) / len(numbers) ** 0.5 if len(numbers) > 1 else np.nan
    half, mean = stats.t.ppf(0.975, max(1, len(numbers) - 1)) * error, float(numbers.mean())
    return {"difference": mean, "low": mean - half, "high": mean + half}


def _courses(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Compare the courses on meta-validation: steps saved to the same quality, and the best after the same time."""
    if not all(row.get("validations") for pair in pairs for row in pair):
        return {}
    saved = [_steps_to(_risen(theirs), theirs) - _steps_to(_risen(theirs), ours) for ours, theirs in pairs]
    timely = [_best_within(theirs["cpu_seconds"], ours) - _best_within(np.inf, theirs) for ours, theirs in pairs]
    return {"steps_saved": _over_seeds(saved), "at_equal_time": _over_seeds(timely)}


def _risen(row: dict[str, Any]) -> float:
    """Quality after nine tenths of the rise from the first validation to the best: the best itself is luck."""
    values = [value for _, value in row["validations"]]
    return float(values[0] + RISE * (max(values) - values[0]))


def _steps_to(quality: float, row: dict[str, Any]) -> int:
    """Step of the first validation with a quality; one interval beyond the last where none has it."""
    steps = [step for step, _ in row["validations"]]
    reached = [step for step, value in row["validations"] if value >= quality]
    return reached[0] if reached else steps[-1] + steps[0]


def _best_within(seconds: float, row: dict[str, Any]) -> float:
    """Best meta-validation of a training that ends after so much processor time, as if all steps took equally long."""
    last = row["validations"][-1][0] * seconds / row["cpu_seconds"]
    within = [value for step, value in row["validations"] if step <= last] or [row["validations"][0][1]]
    return float(max(within))


def main(words: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of a prepared data set")
    parser.add_argument("--recipe", default="flagship")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipe that all ways share")
    parser.add_argument("--validate-steps", type=int, default=50, help="steps between validations")
    parser.add_argument("--remedies", action="store_true", help="remedies of meta-overfitting in place of curricula")
    parser.add_argument("--only", action="append", help="a way by name, beside the first; default: all")
    parser.add_argument("--json", type=Path, help="file of the results")
    parser.add_argument("--recount", action="store_true", help="train nothing: compare what the file of results holds")
    given = parser.parse_args(words)
    if given.recount:
        recount(given.json)
        return
    data, rows = open_dataset(given.dataset), []
    common = ["ensemble.members=[]", "race.settings=[]", f"train.most_steps={given.steps}", *given.set]
    common += [f"train.validate_steps={given.validate_steps}", "train.patience=1000000"]
    every = remedies() if given.remedies else {k: (given.recipe, v) for k, v in ways(given.steps).items()}
    first, metric = next(iter(every)), metric_names(data)[0]
    every = {k: v for k, v in every.items() if not given.only or k in (first, *given.only)}
    with fixed_threads(1):
        for seed in range(given.seeds):
            inputs = training_inputs(data, str(given.dataset), scenario="new", split="seed", seed=seed)
            for way, (name, settings) in every.items():
                recipe = find_recipe(name, [*common, *settings])
                rows.append({"way": way, "seed": seed, **train_way(inputs, recipe, measure_gap=given.remedies)})
                print(f"seed {seed}, {way}: {rows[-1]['value']:.4f}", file=sys.stderr)
                if given.json:
                    write_file(given.json, dump_json(result_of(rows, metric, first, words), indent=1).encode())
    print_paired(result_of(rows, metric, first, words)["paired"])


def recount(file: Path) -> None:
    """Compare the ways of a file of results anew, and write it."""
    result = json.loads(file.read_text(encoding="utf-8"))
    ways_there = list(dict.fromkeys(row["way"] for row in result["rows"]))
    result["paired"] = [less_first(result["rows"], way, ways_there[0], result["metric"]) for way in ways_there[1:]]
    write_file(file, dump_json(result, indent=1).encode())
    print_paired(result["paired"])


def print_paired(paired: Sequence[dict[str, Any]]) -> None:
    """Print the comparison of each way with the first one."""
    for row in paired:
        parts = [row, row.get("steps_saved"), row.get("at_equal_time")]
        cells = [f"{p['difference']:+9.4f} [{p['low']:+.4f}, {p['high']:+.4f}]" for p in parts if p is not None]
        print(f"{row['way']:34} {' '.join(cells)}")


def result_of(rows: list[dict[str, Any]], metric: str, first: str, words: Sequence[str] | None) -> dict[str, Any]:
    """Content of the file of results, of as many ways and seeds as are trained."""
    command = shlex.join(["python", "-m", "benchmarks.curricula", *map(str, words or sys.argv[1:])])
    others = dict.fromkeys(r["way"] for r in rows if r["way"] != first)
    paired = [less_first(rows, way, first, metric) for way in others]
    return {"bench": "curricula", "command": command, "metric": metric, "rows": rows, "paired": paired}


if __name__ == "__main__":
    main()
