"""Parameters of learners and bytes of their states, for results of `compare` that were made before it measured them.

    python -m benchmarks.method_sizes var/data/foursquare-us --scenario actors \\
        --json benchmarks/results/foursquare-us-chaml.json

Neither depends on what was learned, so fresh parameters of each recipe are counted and nothing is trained. The file of
results gets `parameters` and `state_bytes` of each learner that it has by the name of a recipe, without members of an
ensemble, and `sizes`, the command that counted them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.experiments.method_cost import greatest_episodes, method_cost
from pipelines.experiments.process_timer import ProcessTimer
from pipelines.experiments.recipe_learner import learner_of
from pipelines.experiments.thread_count import fixed_threads
from pipelines.experiments.training_inputs import TrainingInputs, default_shots, training_inputs
from pipelines.workspace import find_recipe, recipe_names
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.data import open_dataset


def sizes_of(recipe: str, inputs: TrainingInputs) -> dict[str, int]:
    """Count the parameters of a recipe's learner, and the bytes of the state of a newcomer with the most shots."""
    data = inputs.data
    learner = learner_of(find_recipe(recipe), data)
    params = learner.init(data, inputs.split.train, torch.Generator().manual_seed(inputs.seed))
    episodes = greatest_episodes(data, inputs.index, inputs.split.test, default_shots(data, inputs.scenario))
    cost = method_cost(learner, params, episodes, ProcessTimer())
    return {"parameters": cost.parameters or 0, "state_bytes": cost.state_bytes or 0}


def main(words: Sequence[str] | None = None) -> None:
    """Add the sizes to a file of results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of a prepared data set")
    parser.add_argument("--scenario", default="new", help="new or actors")
    parser.add_argument("--json", type=Path, required=True, help="file of the results")
    given = parser.parse_args(words)
    text = given.json.read_text(encoding="utf-8")
    result = json.loads(text)
    data = open_dataset(given.dataset)
    inputs = training_inputs(data, str(given.dataset), scenario=given.scenario, split="seed", seed=0)
    with fixed_threads(1):
        for method in result["methods"]:
            if method["method"] in recipe_names() and not method.get("parameters"):
                method.update(sizes_of(method["method"], inputs))
                print(method["method"], method["parameters"], method["state_bytes"], file=sys.stderr)
    result["sizes"] = "python -m benchmarks.method_sizes " + " ".join(map(str, words or sys.argv[1:]))
    write_file(given.json, _laid_out(result, like=text).encode())


def _laid_out(result: Mapping[str, Any], like: str) -> str:
    """JSON text of a result, indented as the text that it was read from: by one blank, or with a line for each row."""
    if like.startswith('{\n "'):
        return dump_json(result, indent=1)
    parts = []
    for key, value in result.items():
        rows = ",\n".join(map(json.dumps, value)) if isinstance(value, list) else ""
        parts.append(f"{json.dumps(key)}: " + (f"[\n{rows}\n]" if isinstance(value, list) else json.dumps(value)))
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    main()
