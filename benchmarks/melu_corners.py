"""Ratings of MovieLens-1M in the four corners of MeLU (protocol U3), and the same users by number of ratings.

    recsys-meta data prepare movielens-1m --objective rating --out var/data/movielens-1m-ratings
    python -m benchmarks.melu_corners var/data/movielens-1m-ratings --json benchmarks/results/melu-corners.json

Films up to 1997 are known, later ones new; a fifth of the users, by the draw, is new. Of each corner those users count
who have 13 to 100 ratings in it; 10 of these, at random, are the query, the others the support. Training has the
ratings of known films by known users: of users who count ("melu", as published), or of all ("warm"). A tenth of the
known users who count validates and trains no more. Metrics are means over users: MAE with predictions clipped to the
scale, and nDCG within the query with gain 2^r - 1 and, under `linear_ndcg@`, with gain r: papers print either.

The curve ("shots"): new users with 20 ratings of known films or more, 10 of them the query, and the first 0, 1, 2, 3, 5
and 10 of the others the support.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipelines.experiments.thread_count import default_threads, fixed_threads
from pipelines.experiments.training_inputs import TrainingInputs
from pipelines.experiments.training_run import train_run
from pipelines.experiments.tuned_baselines import TunedBaselines
from pipelines.workspace import Workspace, find_recipe
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.feature_tensors import lookup_rows
from recsys_meta.core.json_text import dump_json
from recsys_meta.core.types import FIRST, FloatArray, IntArray, Params
from recsys_meta.data import open_dataset
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import EntitySplit
from recsys_meta.episodes.warm_cold_scenarios import WarmColdGrid
from recsys_meta.metrics.bootstrap import paired_difference_over_seeds, summarise_seeds
from recsys_meta.models.protocols import Predictor

LAST_KNOWN_YEAR = 1997
FEWEST, MOST, QUERY = 13, 100, 10
"""Ratings of a user who counts in a corner, and those of the query."""
CURVE, CURVE_FEWEST = (0, 1, 2, 3, 5, 10), 20
"""Numbers of ratings of the curve, and the ratings that a user of it has."""
SHOTS = (0, 1, 3, 5, 10, 20, 40)
"""Numbers of ratings that baselines are tuned for and members of an ensemble weighed at."""
DEPTHS = (1, 3, 5)
LEARNERS = ("flagship-rating", "maml", "melu", "benchmarks/recipes/melu-published.toml")
BASELINES = ("popularity", "item-mean", "blr", "content")
CHUNK = 64


class PointKey(NamedTuple):
    """A point of the result; `shots` is None where the support is all but the query."""

    scenario: str
    method: str
    role: str
    shots: int | None
    metric: str


@dataclass(frozen=True)
class WarmColdCorner:
    """Entities that are evaluated, and the index of their rows in the order in which supports grow."""

    name: str
    entities: IntArray
    index: EventIndex


@dataclass(frozen=True)
class CornerDraw:
    """One draw: the corners, the rows of known films by known users, and those who train and validate by training."""

    corners: tuple[WarmColdCorner, ...]
    known_rows: EventIndex
    splits: Mapping[str, EntitySplit]


def new_films(data: Dataset) -> Tensor:
    """Mask [C] of the films of a later year than the last known one; those without a year are known."""
    year = lookup_rows({"year": data.items["year"]}, np.arange(data.catalogue))["year"]
    later = np.zeros(data.vocab.size("item.year"), bool)
    later[FIRST:] = data.vocab.values["item.year"].astype(float).to_numpy() > LAST_KNOWN_YEAR
    return torch.from_numpy(later)[year].any(1)


def draw_corners(data: Dataset, seed: int) -> CornerDraw:
    """Draw known and new users, and cut the rows into corners."""
    index = EventIndex.of(data).shuffled(seed)
    is_new = new_films(data)[index.item.long()]
    known_rows, new_rows = index.select(~is_new), index.select(is_new)
    order = np.random.default_rng(seed).permutation(index.entities_with(1))
    cut = round(0.8 * len(order))
    known, new = np.sort(order[:cut]), np.sort(order[cut:])
    corners = (
        WarmColdCorner("new-known", _who_count(known_rows, new), known_rows),
        WarmColdCorner("known-new", _who_count(new_rows, known), new_rows),
        WarmColdCorner("new-new", _who_count(new_rows, new), new_rows),
    )
    counting = _who_count(known_rows, known)
    valid = np.sort(np.random.default_rng(seed).choice(counting, len(counting) // 10, replace=False))
    trains = {"melu": np.setdiff1d(counting, valid), "warm": np.setdiff1d(known, valid)}
    splits = {name: EntitySplit(train, valid, new) for name, train in trains.items()}
    return CornerDraw(corners, known_rows, splits)


def _who_count(rows: EventIndex, users: IntArray) -> IntArray:
    counts = rows.counts.numpy()[users]
    counting: IntArray = users[(counts >= FEWEST) & (counts <= MOST)]
    return counting


@torch.no_grad()
def evaluate_corner(
    predictor: Predictor, params: Params, data: Dataset, corner: WarmColdCorner, shots: int | None = None
) -> dict[str, Tensor]:
    """Metrics [E] of the corner's entities; the support is all but the query or, with `shots`, the first so many rows.
    The query is always the last `QUERY` rows."""
    body, parts = predictor.body(params), []
    for start in range(0, len(corner.entities), CHUNK):
        ids = torch.from_numpy(corner.entities[start : start + CHUNK])
        support, query = corner.index.draw(ids, corner.index.counts[ids] - QUERY)
        support = support if shots is None else support.first(shots)
        batch = episode_batch(data, ids.numpy(), support, query)
        prediction = predictor.score(body, predictor.adapt(body, batch.support), batch.query)
        parts.append(_metrics(prediction, batch.query.label, *(data.schema.label_range or (-np.inf, np.inf))))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _metrics(prediction: Tensor, label: Tensor, low: float, high: float) -> dict[str, Tensor]:
    """Metrics [T] of predictions [T, Q]; rows of equal prediction share their gain."""
    error = prediction.clamp(low, high) - label
    metrics = {"mae": error.abs().mean(1), "rmse": error.square().mean(1)}
    tie = prediction[:, :, None] == prediction[:, None, :]
    above = (prediction[:, None, :] > prediction[:, :, None]).sum(2)
    # Mean discount of the ranks that a group of equal predictions takes: the expectation over random orders.
    size = tie.sum(2)
    for name, gain in (("ndcg", 2.0**label - 1), ("linear_ndcg", label)):
        for depth in DEPTHS:
            discount = 1 / torch.log2(torch.arange(label.shape[1]) + 2.0)
            discount[depth:] = 0
            before = torch.cat([torch.zeros(1), discount.cumsum(0)])
            share = (before[above + size] - before[above]) / size
            ideal = gain.sort(1, descending=True).values @ discount
            metrics[f"{name}@{depth}"] = (gain * share).sum(1) / ideal.clamp(min=1e-9)
    return metrics


def methods(
    workspace: Workspace,
    data: Dataset,
    source: str,
    draw: CornerDraw,
    training: str,
    args: argparse.Namespace,
    seed: int,
) -> Iterator[tuple[str, str, Predictor, Params]]:
    """Name, role, predictor and parameters of every method, trained on "melu" or "warm"."""
    split = draw.splits[training]
    inputs = TrainingInputs(
        data, source, "corners", "seed", seed, EventIndex.of(data), split, WarmColdGrid(draw.known_rows, {})
    )
    tuned = TunedBaselines(inputs)
    for name in args.learners:
        recipe = find_recipe(name)
        print(f"draw {seed}, {training}: {recipe.name}", file=sys.stderr, flush=True)
        bundle = train_run(workspace, recipe, inputs, threads=args.threads, tuned=tuned).bundle
        role = "flagship" if recipe.name.startswith("flagship") else "learner"
        yield recipe.name, role, bundle.predictor, bundle.params
    for name in args.baselines:
        baseline = tuned.tune(name, data.schema.shots)
        yield name, "baseline", baseline.predictor, baseline.params


def measure(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Rows of all draws with their means, and the paired differences."""
    data = open_dataset(args.data)
    if data.schema.objective != "rating":
        raise SystemExit("prepare the data set with --objective rating")
    data = replace(data, schema=data.schema.model_copy(update={"shots": SHOTS, "min_query": 1}))
    values: dict[PointKey, dict[int, FloatArray]] = {}
    for seed in range(args.draws):
        draw = draw_corners(data, seed)
        curve = draw.corners[0]
        enough = curve.index.counts.numpy()[draw.splits["warm"].test] >= CURVE_FEWEST
        curve = replace(curve, name="new-known-curve", entities=draw.splits["warm"].test[enough])
        for training in args.training:
            for name, role, predictor, params in methods(Workspace(), data, str(args.data), draw, training, args, seed):
                with fixed_threads(args.threads):
                    points: list[tuple[WarmColdCorner, int | None]] = [(corner, None) for corner in draw.corners]
                    points += [(curve, k) for k in CURVE] if training == "warm" else []
                    for corner, shots in points:
                        metrics = evaluate_corner(predictor, params, data, corner, shots)
                        for metric, value in metrics.items():
                            key = PointKey(f"{corner.name}/{training}", name, role, shots, metric)
                            values.setdefault(key, {})[seed] = value.double().numpy()
    rows = [row for key, by_seed in values.items() for row in _rows(data.schema.name, key, by_seed)]
    return {"rows": rows, "paired": list(_paired(values))}


def _rows(dataset: str, key: PointKey, by_seed: Mapping[int, FloatArray]) -> Iterator[dict[str, Any]]:
    """Rows of a point, one for each draw and one for their mean."""
    about = {"dataset": dataset, **key._asdict()}
    for seed, value in by_seed.items():
        yield about | {"seed": seed} | _interval(key.metric, [value])
    yield about | {"seed": None} | _interval(key.metric, list(by_seed.values()))


def _interval(metric: str, values: Sequence[FloatArray]) -> dict[str, Any]:
    # All but the root of a mean square are plain means, as the absolute error is.
    return asdict(summarise_seeds("rmse" if metric == "rmse" else "mae", values))


def _paired(values: Mapping[PointKey, Mapping[int, FloatArray]]) -> Iterator[dict[str, Any]]:
    """The flagship less each other method, over the users of all draws."""
    for key, by_seed in values.items():
        if key.role != "flagship":
            continue
        for other, theirs in values.items():
            is_same_point = (other.scenario, other.shots, other.metric) == (key.scenario, key.shots, key.metric)
            if other.role != "flagship" and is_same_point:
                ours = [by_seed[seed] for seed in by_seed]
                difference = paired_difference_over_seeds("mae", ours, [theirs[seed] for seed in by_seed])
                point = {"scenario": key.scenario, "shots": key.shots, "metric": key.metric}
                yield {"method": key.method, "against": other.method, **point, **asdict(difference)}


def main() -> None:
    """Measure, print the means, and write all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--training", nargs="+", default=["melu", "warm"], choices=["melu", "warm"])
    parser.add_argument("--learners", nargs="*", default=LEARNERS)
    parser.add_argument("--baselines", nargs="*", default=BASELINES)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = measure(args)
    for row in result["rows"]:
        if row["seed"] is None and row["metric"] in ("mae", "ndcg@3", "linear_ndcg@3"):
            point = "" if row["shots"] is None else f"@{row['shots']}"
            print(f"{row['scenario']}{point} {row['method']} {row['metric']} {row['value']:.4f} (n {row['n']})")
    if args.json is not None:
        command = "python -m benchmarks.melu_corners " + " ".join(sys.argv[1:])
        content = {"command": command, "created": datetime.now(UTC).isoformat(), **result}
        write_file(args.json, dump_json(content, indent=1).encode())


if __name__ == "__main__":
    main()
