"""Steps that a training from yesterday's model needs, against one from scratch.

    recsys-meta data prepare movielens-100k       # and others
    python -m benchmarks.warm_start var/data/movielens-100k ... --json benchmarks/results/warm-start.json

Yesterday's data are the first 90% of the events by time, or a random 90% where there are no times; items without one of
them are unknown to yesterday's model. Entities are split by a hash of their ids, so that nobody who validates or tests
today was trained on yesterday. Each training is of the recipe's learner alone, and ends where
meta-validation has not gained for as many steps as the recipe waits. The old quality is the best value of
meta-validation from scratch, less .002. With `--other FOLDER` each set also starts from the model of that data set.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.experiments.carried_start import choose_start
from pipelines.experiments.meta_validation import calibration_episodes, validation_of
from pipelines.experiments.recipe_learner import learner_of
from pipelines.experiments.recipe_race import inherited_recipe, race_recipe
from pipelines.experiments.thread_count import fixed_threads
from pipelines.experiments.training_inputs import TrainingInputs, default_shots, training_inputs
from pipelines.workspace import find_recipe
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.json_text import dump_json
from recsys_meta.core.types import FIRST, Params
from recsys_meta.data import open_dataset
from recsys_meta.episodes.held_out_items import without_items
from recsys_meta.evaluation.cold_start import cold_start
from recsys_meta.evaluation.evaluate_batch import metric_names
from recsys_meta.models.bundle import Bundle, make_bundle
from recsys_meta.training.recipe import Recipe
from recsys_meta.training.trainer import fit, start_training
from recsys_meta.training.warm_start import carry_parameters

SHARE, NEAR, VALIDATE_STEPS = 0.9, 0.002, 20
"""Share of the events that yesterday knew; how near to the old quality is equal; steps between validations."""


@dataclass(frozen=True)
class TrainingCourse:
    """Course of a training: values of meta-validation by step, the mean over the curve of meta-test, seconds of
    processor time of race and steps, and the model."""

    validations: Sequence[tuple[int, float]]
    test: float
    race_seconds: float
    seconds: float
    settings: Mapping[str, Any]
    carried: str
    model: Bundle

    @property
    def best(self) -> float:
        """Best value of meta-validation."""
        return max(value for _, value in self.validations)

    def steps_to(self, value: float) -> int | None:
        """First validated step that reaches a value, None where none does."""
        return next((step for step, reached in self.validations if reached >= value), None)


def first_part(data: Dataset, share: float, seed: int) -> Dataset:
    """Data set of the first events by time, or of random ones where there are no times, and of their items."""
    events, count = data.events, len(data.events)
    order = np.random.default_rng(seed).permutation(count)
    if events.time is not None:
        order = order[np.argsort(np.asarray(events.time)[order], kind="stable")]
    keep = np.sort(order[: round(share * count)])
    first = replace(
        events,
        indptr=np.searchsorted(keep, events.indptr),
        item=np.asarray(events.item)[keep],
        label=np.asarray(events.label)[keep],
        time=None if events.time is None else np.asarray(events.time)[keep],
        context={k: np.asarray(v)[keep] for k, v in events.context.items()},
    )
    return without_items(replace(data, events=first), np.setdiff1d(np.arange(FIRST, data.catalogue), first.item))


def inputs_of(data: Dataset, seed: int) -> TrainingInputs:
    """Inputs of a training, in which an entity has the same part however much is known of it."""
    return training_inputs(data, data.schema.name, scenario="new", split=f"hash:{seed}", seed=seed)


def train(inputs: TrainingInputs, recipe: Recipe, model: Bundle | None = None, *, race: bool = True) -> TrainingCourse:
    """Train as `recsys-meta train` does, from a model where one is given, and measure on meta-test entities."""
    data, notes, began = inputs.data, list[str](), time.process_time()
    if race:
        recipe = race_recipe(recipe, inputs, "cpu", lambda _: None, model=model)
    elif model is not None:
        recipe = inherited_recipe(recipe, inputs, model, lambda _: None)
    race_seconds = time.process_time() - began
    learner = learner_of(recipe, data)

    def carry(fresh: Params) -> Params:
        if model is None:
            return fresh
        params, carried = carry_parameters(fresh, learner, model, data)
        notes.append(carried.describe())
        return choose_start(fresh, params, validate, lambda text: notes.append(f"; {text}"))

    validate = validation_of(learner, inputs, recipe)
    run = start_training(learner, recipe, data, inputs.train_index, inputs.split.train, inputs.seed, carry=carry)
    run.validates_start = model is not None
    validations = [(0, validate(run.current_params()))]
    validations += [(s.step, s.valid) for s in fit(run, validate) if s.valid is not None]
    params = learner.calibrate(run.best_params_or_last(), calibration_episodes(inputs, recipe))
    seconds = time.process_time() - began - race_seconds
    shots = default_shots(data, inputs.scenario)
    curve = cold_start(learner, params, data, inputs.index, inputs.split.test, shots=shots, seed=inputs.seed)
    settings = {key: recipe.config.get(key) for key in ("dropout", "decay")}
    bundle = make_bundle(learner, params, data, inputs.train_index, inputs.split.train, {})
    test = curve.mean(metric_names(data)[0])
    return TrainingCourse(
        validations, test, race_seconds, seconds, settings, "".join(notes), replace(bundle, version="the model")
    )


def result_row(way: str, course: TrainingCourse, scratch: TrainingCourse) -> dict[str, Any]:
    """Row of the results: a training beside that from scratch."""
    target = scratch.best - NEAR
    steps, reference = course.steps_to(target), scratch.steps_to(target)
    assert reference is not None
    seconds, others = course.race_seconds + course.seconds, scratch.race_seconds + scratch.seconds
    return {
        "way": way, "start": course.validations[0][1], "best": course.best, "test": course.test,
        "steps_to_old_quality": steps, "ratio_of_steps": None if steps is None else steps / reference,
        "steps_in_all": course.validations[-1][0], "race_seconds": course.race_seconds, "seconds": seconds,
        "ratio_of_seconds": seconds / others, "settings": course.settings, "carried": course.carried,
        "validations": course.validations,
    }  # fmt: skip


def compare(
    data: Dataset, seed: int, recipe: Recipe, longer: Recipe, others: Mapping[str, Bundle]
) -> list[dict[str, Any]]:
    """Rows of one data set and seed; yesterday's model is trained by the recipe itself, as it comes."""
    inputs = inputs_of(data, seed)
    yesterday = train(inputs_of(first_part(data, SHARE, seed), seed), longer)
    scratch = train(inputs, recipe)
    courses = {
        "scratch": scratch,
        "from yesterday": train(inputs, recipe, yesterday.model, race=False),
        **{f"from {name}": train(inputs, recipe, model) for name, model in others.items() if name != data.schema.name},
    }
    rows = [{"dataset": data.schema.name, "seed": seed, **result_row(w, c, scratch)} for w, c in courses.items()]
    for row in rows:
        print({k: v for k, v in row.items() if k != "validations"}, file=sys.stderr)
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path, nargs="+", help="folders of prepared data sets")
    parser.add_argument("--other", type=Path, help="folder of a data set whose model the others start from too")
    parser.add_argument("--recipe", default="flagship")
    parser.add_argument("--steps", type=int, default=1500, help="most steps of a training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipe")
    parser.add_argument("--json", type=Path, help="file of the results")
    given = parser.parse_args(words)
    longer = find_recipe(given.recipe, ["ensemble.members=[]", f"train.most_steps={given.steps}", *given.set])
    patience = longer.train.patience * longer.train.validate_steps // VALIDATE_STEPS
    often = [f"train.validate_steps={VALIDATE_STEPS}", f"train.patience={patience}"]
    recipe = find_recipe(given.recipe, ["ensemble.members=[]", f"train.most_steps={given.steps}", *given.set, *often])
    rows, first = list[dict[str, Any]](), open_dataset(given.datasets[0])
    with fixed_threads(1):
        others = {}
        if given.other:
            other = open_dataset(given.other)
            others = {other.schema.name: train(inputs_of(other, 0), longer).model}
        for folder in given.datasets:
            data = open_dataset(folder)
            for seed in range(given.seeds):
                rows += compare(data, seed, recipe, longer, others)
    command = "python -m benchmarks.warm_start " + " ".join(map(str, words or sys.argv[1:]))
    result = {"bench": "warm_start", "command": command, "metric": metric_names(first)[0], "rows": rows}
    if given.json:
        write_file(given.json, dump_json(result, indent=1).encode())


if __name__ == "__main__":
    main()
