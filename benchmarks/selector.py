"""Choice of a learner for each newcomer: the selector's ways, the best single learner and the oracle.

    recsys-meta data prepare simulated-users
    python -m benchmarks.selector var/data/simulated-users --json benchmarks/results/selector-simulated-users.json

The members of the recipe are trained once for each seed. Every way chooses shares of the same trained members on the
same meta-validation episodes, and is measured on the same meta-test episodes. `best` is the member of highest worth on
meta-validation. `oracle` takes for each episode the member that is best on its own query: an upper bound, luck
included. `oracle by halves` takes the one that is best on one half of the query's items and is judged on the other
half, where the first is left out of the lists (and the other way round): what the choice is worth without luck. It is
compared with the best single learner on the same halves. Differences are paired over meta-test entities, means over
their numbers of shots, with 95% intervals.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.experiments.meta_validation import calibration_episodes, validation_of
from pipelines.experiments.recipe_learner import learner_of
from pipelines.experiments.thread_count import fixed_threads
from pipelines.experiments.training_inputs import TrainingInputs, default_shots, training_inputs
from pipelines.workspace import find_recipe
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.core.types import FIRST, Params, TaskBatch
from recsys_meta.data import open_dataset
from recsys_meta.episodes.event_index import order_rows
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.metrics.bootstrap import paired_difference_over_seeds
from recsys_meta.metrics.ranking_metrics import ndcg
from recsys_meta.models.functional.score_forms import standardize
from recsys_meta.models.learners.selection.cross_fitting import FittedShares
from recsys_meta.models.learners.selection.selector import LearnerSelector, fit_shares
from recsys_meta.training.trainer import fit, start_training

WAYS = ("best", "equal", "gate", "q-values", "evolution")
ORACLE, HALVES, BEST_HALVES = "oracle", "oracle by halves", "best by halves"
CHUNK = 64

Values = dict[int, np.ndarray]
"""nDCG@10 [E] of the meta-test entities at each number of shots; NaN where an entity has no such episode."""


@dataclass(frozen=True)
class TrainedSelector:
    """Selector after training, its parameters with calibrated members, and the shares that each way chose."""

    learner: LearnerSelector
    params: Params
    fitted: Mapping[str, FittedShares]


def train(inputs: TrainingInputs, recipe: Any) -> TrainedSelector:
    """Train the members once and fit the shares of every way."""
    learner = learner_of(recipe, inputs.data)
    assert isinstance(learner, LearnerSelector)
    run = start_training(learner, recipe, inputs.data, inputs.train_index, inputs.split.train, inputs.seed)
    for _ in fit(run, validation_of(learner, inputs, recipe)):
        pass
    with torch.no_grad():
        params = {k: v.detach() for k, v in {**run.current_params(), **run.best_params}.items()}
        episodes = calibration_episodes(inputs, recipe)
        params, collected = learner.selection_episodes(learner.calibrate_members(params, episodes), episodes)
        assert collected is not None
        return TrainedSelector(learner, params, {way: fit_shares(collected, way) for way in WAYS})


@torch.no_grad()
def measure(trained: TrainedSelector, inputs: TrainingInputs) -> dict[str, Values]:
    """Values of every member, way and oracle on the meta-test entities."""
    data, test = inputs.data, np.sort(inputs.split.test)
    body = trained.learner.body(trained.params)
    rows = order_rows(inputs.index, data.schema.order, inputs.seed)
    values: dict[str, Values] = {}
    for k in default_shots(data, inputs.scenario):
        enough = rows.has_support(test, k, data.schema.min_query, data.schema.query_from)
        for start in range(0, len(test), CHUNK):
            some = start + np.flatnonzero(enough[start : start + CHUNK])
            if not len(some):
                continue
            batch = episodes_at(data, rows, test[some], k)
            for name, own in _batch_values(trained, body, batch, inputs.seed * 1_000_003 + start * 31 + k).items():
                values.setdefault(name, {}).setdefault(k, np.full(len(test), np.nan))[some] = own.numpy()
    return values


def _batch_values(trained: TrainedSelector, body: Params, batch: TaskBatch, seed: int) -> dict[str, Tensor]:
    """nDCG@10 [T] of a batch by the name of a member, a way or an oracle."""
    learner = trained.learner
    states = learner.member_states(body, batch.support)
    members = torch.stack([standardize(scores) for scores in learner.member_rankings(body, states)])
    features = learner.meta_features(body, batch.support)
    relevant = torch.zeros(members.shape[1:], dtype=torch.bool).scatter_(1, batch.query.item, batch.query.mask)
    candidates = torch.ones_like(relevant).scatter_(1, batch.support.seen_items, False)
    candidates[:, :FIRST] = False
    relevant &= candidates
    alone = torch.stack([ndcg(m, relevant, candidates) for m in members])
    result = {m.name: v for m, v in zip(learner.members, alone, strict=True)}
    for way, fitted in trained.fitted.items():
        mixture = torch.einsum("tm,mtc->tc", fitted.shares.of(features), members)
        result[way] = ndcg(mixture, relevant, candidates)
    half = torch.rand(relevant.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    one, other = (
        torch.stack([ndcg(m, relevant & h, candidates & ~(relevant & ~h)) for m in members]) for h in (half, ~half)
    )
    best = int(trained.fitted["best"].shares.bias.argmax())
    both = torch.stack([_value_of_choice(one, other), _value_of_choice(other, one)]).mean(0)
    return {
        **result,
        ORACLE: alone.max(0).values,
        HALVES: both,
        BEST_HALVES: torch.stack([one[best], other[best]]).mean(0) + 0 * both,
    }


def _value_of_choice(seen: Tensor, judged: Tensor) -> Tensor:
    """Value [T], on what is judged [M, T], of the member that is best on what is seen [M, T]; NaN without either."""
    choice = seen.nan_to_num(-1.0).argmax(0)
    return judged.gather(0, choice[None])[0] + 0 * seen[0]


def entity_means(values: Values) -> np.ndarray:
    """Mean [E] over the numbers of shots that an entity reaches; NaN without any."""
    table = np.stack(list(values.values()))
    count = np.isfinite(table).sum(0)
    return np.where(count > 0, np.nansum(table, 0) / np.maximum(count, 1), np.nan)


def summarize(seeds: Sequence[dict[str, Values]]) -> list[dict[str, Any]]:
    """Row of each method: mean at each number of shots, difference to the best single learner, and the share that it is
    of the way from there to the oracle, and to what the oracle is worth by halves."""
    base = [entity_means(s["best"]) for s in seeds]
    halves = _difference([s[HALVES] for s in seeds], [entity_means(s[BEST_HALVES]) for s in seeds])
    oracle = _difference([s[ORACLE] for s in seeds], base)
    rows = []
    for name in seeds[0]:
        if name == BEST_HALVES:
            continue
        own = [s[name] for s in seeds]
        less = halves if name == HALVES else _difference(own, base)
        curve = {k: float(np.nanmean(np.concatenate([s[k] for s in own]))) for k in own[0]}
        row = {"method": name, "curve": curve, **less, "share_of_oracle": less["difference"] / oracle["difference"]}
        rows.append({**row, "share_of_honest_oracle": less["difference"] / halves["difference"]})
    return rows


def _difference(ours: Sequence[Values], theirs: Sequence[np.ndarray]) -> dict[str, float]:
    paired = paired_difference_over_seeds("ndcg@10", [entity_means(v) for v in ours], theirs)
    return {"difference": paired.difference, "low": paired.low, "high": paired.high}


def main(words: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of a prepared data set of rankings")
    parser.add_argument("--recipe", default="selector")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipe")
    parser.add_argument("--json", type=Path, help="file of the results")
    given = parser.parse_args(words)
    data, seeds, fits = open_dataset(given.dataset), [], []
    settings = [f"train.most_steps={given.steps}", "race.settings=[]", *given.set]
    with fixed_threads(1):
        for seed in range(given.seeds):
            began = time.process_time()
            inputs = training_inputs(data, str(given.dataset), scenario="new", split="seed", seed=seed)
            trained = train(inputs, find_recipe(given.recipe, settings))
            seeds.append(measure(trained, inputs))
            levels = {way: {"level": f.level, "gain": f.gain} for way, f in trained.fitted.items()}
            fits.append({"seed": seed, "ways": levels, "cpu_seconds": time.process_time() - began})
            print(f"seed {seed}: {levels}", file=sys.stderr)
            rows = summarize(seeds)
            if given.json:
                command = "python -m benchmarks.selector " + " ".join(map(str, words or sys.argv[1:]))
                result = {"bench": "selector", "command": command, "metric": "ndcg@10", "seeds": seed + 1}
                write_file(given.json, dump_json({**result, "fits": fits, "rows": rows}, indent=1).encode())
    for row in rows:
        curve = " ".join(f"{v:.4f}" for v in row["curve"].values())
        interval = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        shares = (
            f"{row['share_of_oracle']:+.1%} of the oracle, {row['share_of_honest_oracle']:+.1%} of its worth by halves"
        )
        print(f"{row['method']:18} {curve}  {interval}  {shares}")


if __name__ == "__main__":
    main()
