"""The default flagship on a large log: seconds, memory and quality beside baselines, and an answer's milliseconds.

    python -m benchmarks.scale_data FOLDER --events 10000000 --users 500000 --items 100000
    recsys-meta data prepare FOLDER/scale.toml --out DATA
    recsys-meta train --recipe flagship --dataset DATA --threads 2        # says seconds as it goes
    python -m benchmarks.scale DATA BUNDLE --json benchmarks/results/scale-10m.json

The bundle is that of the run. Baselines are tuned on meta-validation as for the ensemble, and all are measured on the
same sample of meta-test users, each with a ranking of the whole catalogue.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import machine_facts
from pipelines.experiments.thread_count import fixed_threads
from pipelines.experiments.training_inputs import TrainingInputs, default_shots, training_inputs
from pipelines.experiments.tuned_baselines import TunedBaselines
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.data import open_dataset
from recsys_meta.evaluation.cold_start import cold_start
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.evaluation.evaluate_batch import metric_names
from recsys_meta.evaluation.validation_episodes import sample_entities
from recsys_meta.inference.one_shot import recommend
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.models.bundle import load_bundle
from recsys_meta.models.protocols import Predictor

BASELINES = ("popularity", "itemknn", "ials-prior")
CALLS = 200
"""Answers that are timed."""


def curves(
    inputs: TrainingInputs, bundle: Path, baselines: Sequence[str], entities: int
) -> tuple[dict[str, ColdStartCurve], dict[str, float]]:
    """Curves of the flagship and of tuned baselines on a sample of meta-test users, and the seconds of processor time
    that tuning each baseline took."""
    data, shots = inputs.data, default_shots(inputs.data, inputs.scenario)
    tuned = TunedBaselines(inputs, _say)
    sample = sample_entities(inputs.split.test, entities, inputs.seed)
    results: dict[str, ColdStartCurve] = {}
    seconds: dict[str, float] = {}

    def measure(name: str, predictor: Predictor, params: dict[str, torch.Tensor]) -> None:
        _say(f"measuring {name} on {len(sample):,} users")
        results[name] = cold_start(
            predictor, params, data, inputs.index, sample, shots=shots, seed=inputs.seed, chunk=16
        )

    for name in baselines:
        began = time.process_time()
        baseline = tuned.tune(name, shots)
        seconds[name] = time.process_time() - began
        measure(name, baseline.predictor, baseline.params)
    loaded = load_bundle(bundle)
    measure("flagship", loaded.predictor, loaded.params)
    return results, seconds


def answer_milliseconds(bundle: Path, events: int = 10) -> float:
    """Median milliseconds of an answer in process for a newcomer of some events: adapt, rank all items, take ten."""
    recommender = Recommender(load_bundle(bundle))
    names = recommender.bundle.vocab.values["item"]
    rng, taken = np.random.default_rng(0), []
    for _ in range(CALLS):
        positions = rng.choice(len(names), events, replace=False)
        request = EntityRequest(events=[Interaction(str(names[i])) for i in positions])
        began = time.perf_counter()
        recommend(recommender, request)
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def rows_of(results: dict[str, ColdStartCurve], metric: str) -> list[dict[str, Any]]:
    """Rows of every method at every point with its interval, those of baselines with the flagship's paired lead."""
    rows = []
    for name, curve in results.items():
        for shots in curve.values:
            value = curve.interval(shots, metric)
            row = {"method": name, "shots": shots, "metric": metric, "value": value.value}
            row |= {"low": value.low, "high": value.high, "n": value.n}
            if name != "flagship":
                lead = results["flagship"].against(curve, shots, metric)
                row |= {"lead": lead.difference, "lead_low": lead.low, "lead_high": lead.high}
            rows.append(row)
    return rows


def _say(text: str) -> None:
    print(f"{time.process_time():,.0f} s of processor time: {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--entities", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--baselines", default=",".join(BASELINES))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    data = open_dataset(given.data)
    inputs = training_inputs(data, str(given.data), scenario="new", split="seed", seed=0)
    with fixed_threads(given.threads):
        results, seconds = curves(inputs, given.bundle, given.baselines.split(","), given.entities)
        rows = rows_of(results, metric_names(data)[0])
        milliseconds = answer_milliseconds(given.bundle)
    for row in rows:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"tuned in {seconds}; an answer takes {milliseconds:.2f} ms; peak {peak:,.0f} MiB")
    if given.json is not None:
        content = {
            "bench": "scale",
            "command": " ".join(["python -m benchmarks.scale", *sys.argv[1:]]),
            "machine": machine_facts(),
            "data": {"events": len(data.events), "users": data.events.entity_count, "items": data.catalogue},
            "tuning_seconds": seconds,
            "answer_milliseconds": milliseconds,
            "peak_mebibytes": peak,
            "rows": rows,
        }
        write_file(given.json, dump_json(content, indent=1).encode())


if __name__ == "__main__":
    main()
