"""A hundred simulated streams of newcomers with known truth: what the views of outcomes say of two versions.

    python -m benchmarks.online_streams --json benchmarks/results/online-streams.json

Newcomers are users of the simulator who were in no training; each chooses six items by its taste. Two versions of one
method answer, one fitted on many users and one on few. Every newcomer is judged beforehand by both, with the functions
that a server judges events with, so the true difference of the versions is that over all of them; a stream draws
newcomers at random, assigns each to an arm, and writes its outcomes day by day into a database. Each evening
`split_results` is looked at. In half of the streams both arms are the same version: any verdict there is a false alarm.

At the end the gain of adapting by `online_quality` stands beside that of an offline evaluation on other users, which
reads episodes of the data set and not events.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sqlalchemy import Engine, text

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.json_text import dump_json
from recsys_meta.core.types import FIRST, FloatArray, IntArray
from recsys_meta.data import prepare, simulate_users
from recsys_meta.episodes.event_index import EventIndex, order_rows
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.inference.insight.next_event import NextEvent, next_event_losses
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest
from recsys_meta.inference.requests.stored_events import StoredInteraction, merge_events
from recsys_meta.models.baselines import BASELINES
from recsys_meta.models.bundle import Bundle, make_bundle
from recsys_meta.store.database.engine import connect, reading, session
from recsys_meta.store.database.migrate import upgrade_database
from recsys_meta.store.entities.outcomes import NewOutcome, hits_in_list, save_outcomes
from recsys_meta.store.entities.tables import ImpressionRecord
from recsys_meta.store.model_registry import registry
from recsys_meta.store.model_registry.split_arms import SplitArm
from recsys_meta.store.model_registry.traffic_splits import start_split

ITEMS, TRAIN, FEW, OFFLINE, POOL = 300, 1000, 4, 1000, 4000
EVENTS, DAYS, LIST = 6, 8, 10
METHOD = "ials-prior"
BETTER, WORSE = "many users", "few users"
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class JudgedPool:
    """Figures of each newcomer's events under one version, [newcomers, events] each."""

    hit_10: FloatArray
    gain: FloatArray
    figures: list[list[dict[str, Any]]]


def simulated_world(folder: Path, seed: int) -> tuple[Dataset, EventIndex]:
    """Simulate users and prepare them; rows of an entity are in the order of their time."""
    users = TRAIN + OFFLINE + POOL
    data = prepare(simulate_users(users=users, items=ITEMS, events=20 * users, seed=seed).tables, folder / "data")
    return data, order_rows(EventIndex.of(data), "time", 0)


def fitted(data: Dataset, index: EventIndex, entities: IntArray) -> Bundle:
    """Fit the method on some users, at its default settings."""
    predictor = BASELINES[METHOD]()
    return make_bundle(predictor, predictor.fit(data, entities), data, index, entities, {})


def judge(recommender: Recommender, data: Dataset, index: EventIndex, entities: IntArray) -> JudgedPool:
    """Judge the first events of newcomers one after the other, as a server does: by the list shown before each, and by
    the state before it."""
    names = data.vocab.values["item"]
    first = index.indptr[torch.as_tensor(entities)]
    items = index.item[first[:, None] + torch.arange(EVENTS)] - FIRST
    events = [
        [StoredInteraction(f"e{t}", str(names[i]), 5.0, float(t)) for t, i in enumerate(row)] for row in items.tolist()
    ]
    figures: list[list[dict[str, Any]]] = [[] for _ in events]
    for turn in range(EVENTS):
        cases = [NextEvent({}, row[:turn], row[turn]) for row in events]
        for start in range(0, len(cases), 500):
            part = cases[start : start + 500]
            requests = [merge_events(recommender.reader, {}, case.before, EntityRequest()) for case in part]
            encoded = [recommender.read_support(request) for request in requests]
            lists = recommender.lists.top_k_batch(recommender.scores(recommender.adapt(encoded)), LIST, encoded)
            losses = next_event_losses(recommender, part)
            for n, (case, shown, loss) in enumerate(zip(part, lists, losses, strict=True), start):
                impression = ImpressionRecord(id=1, first_rank=1, items=[one.item for one in shown])
                hits = hits_in_list(impression, case.event.item, loss.popular_rank)
                known = {"loss": loss.loss, "loss_unadapted": loss.loss_unadapted, "support_size": loss.support_size}
                figures[n].append({**hits, **known})
    hit = np.array([[one["hit_10"] for one in row] for row in figures])
    gain = np.array([[one["loss_unadapted"] - one["loss"] for one in row] for row in figures])
    return JudgedPool(hit, gain, figures)


def offline_gain(bundle: Bundle, data: Dataset, index: EventIndex, entities: IntArray) -> list[tuple[float, float]]:
    """Mean fall of the loss of the row after each support size, and its standard error, by episodes of the data set."""
    predictor, result = bundle.predictor, []
    body = predictor.body(bundle.params)

    def losses(size: int, known: int) -> torch.Tensor:
        batch, support = episodes_at(data, index, entities, size), episodes_at(data, index, entities, known).support
        scores = predictor.rank(body, predictor.adapt(body, support)).clone()
        scores[:, :FIRST] = -torch.inf
        seen = batch.support.rows
        for task, items, mask in zip(range(len(scores)), seen.item, seen.mask, strict=True):
            scores[task, items[mask]] = -torch.inf
        chosen = batch.query.item[torch.arange(len(scores)), batch.query.mask.int().argmax(1)]
        return -torch.log_softmax(scores, 1)[torch.arange(len(scores)), chosen]

    for size in range(EVENTS):
        gain = (losses(size, 0) - losses(size, size)).double().numpy()
        result.append((float(gain.mean()), float(gain.std(ddof=1) / len(gain) ** 0.5)))
    return result


class OutcomeStream:
    """Stream of newcomers of one model: who arrives when, in which arm, and what became of their events."""

    def __init__(self, model: str, arms: Mapping[str, JudgedPool], newcomers: int, rng: np.random.Generator) -> None:
        self.model = model
        self._arms = list(arms.items())
        self._who = rng.integers(0, POOL, newcomers)
        self._arm = rng.integers(0, len(arms), newcomers)
        turns = np.sort(rng.uniform(0, 2, (newcomers, EVENTS)), 1)  # days after the arrival
        self._at = rng.uniform(0, DAYS - 2, newcomers)[:, None] + turns

    def outcomes(self, day: int) -> list[NewOutcome]:
        """Outcomes of the events that arrive on a day."""
        rows = []
        for n, turn in np.argwhere((self._at >= day) & (self._at < day + 1)).tolist():
            label, pool = self._arms[self._arm[n]]
            at = START + timedelta(days=float(self._at[n, turn]))
            figures = pool.figures[self._who[n]][turn]
            name = f"{self.model} {n}"
            rows.append(
                NewOutcome("user", f"{name} {turn}", name, self.model, f"v-{label}", label, created=at, **figures)
            )
        return rows


def begin(engine: Engine, streams: Sequence[OutcomeStream], arms: Sequence[str]) -> None:
    """Publish the arms of each stream's model, and start its split."""
    with session(engine) as s:
        for stream in streams:
            for label in arms:
                registry.publish_version(s, stream.model, f"v-{label}", "/", now=START)
            shares = [SplitArm(label, f"v-{label}", 1) for label in arms]
            start_split(s, stream.model, shares, force=True, now=START)


def watch(engine: Engine, streams: Sequence[OutcomeStream]) -> list[dict[str, dict[str, Any]]]:
    """Write the streams day by day; return for each evening the result of each model's second arm."""
    evenings = []
    for day in range(DAYS):
        with session(engine) as s:
            save_outcomes(s, [row for stream in streams for row in stream.outcomes(day)])
        with reading(engine) as s:
            rows = s.execute(text("SELECT * FROM split_results WHERE verdict <> 'reference'")).mappings()
            evenings.append({row["model"]: dict(row) for row in rows})
        print(f"day {day + 1}: {Counter(one['verdict'] for one in evenings[-1].values())}", file=sys.stderr)
    return evenings


QUALITY = """
SELECT model, model_version, SUM(hit_10 * lists) / SUM(lists) AS hit_10, SUM(gain * judged) / SUM(judged) AS gain
FROM online_quality WHERE lists > 0 GROUP BY model, model_version
"""
BY_SIZE = """
SELECT support_size, SUM(gain * judged) / SUM(judged) AS gain, SUM(judged) AS events
FROM online_quality WHERE model_version = :version AND judged > 0 GROUP BY support_size ORDER BY support_size
"""


def measure(folder: Path, streams: int, newcomers: int, seed: int) -> dict[str, Any]:
    """Run all streams; return what was found of the truth."""
    rng = np.random.default_rng(seed)
    data, index = simulated_world(folder, seed)
    entities = rng.permutation(index.entities_with(EVENTS + 1))
    train, offline, pool = entities[:TRAIN], entities[TRAIN : TRAIN + OFFLINE], entities[TRAIN + OFFLINE :][:POOL]
    bundles = {BETTER: fitted(data, index, train), WORSE: fitted(data, index, train[:FEW])}
    judged = {name: judge(Recommender(bundle), data, index, pool) for name, bundle in bundles.items()}
    truth = {name: float(one.hit_10.mean()) for name, one in judged.items()}
    print(f"true rates {truth}, {len(pool)} newcomers", file=sys.stderr)
    url = f"sqlite:///{folder / 'streams.db'}"
    upgrade_database(url)
    engine = connect(url)
    unlike = {"old": judged[WORSE], "new": judged[BETTER]}
    alike = {"old": judged[BETTER], "new": judged[BETTER]}
    made = {
        what: [OutcomeStream(f"{what} {n}", arms, newcomers, rng) for n in range(streams)]
        for what, arms in (("better", unlike), ("alike", alike))
    }
    for group in made.values():
        begin(engine, group, ("old", "new"))
    evenings = watch(engine, [*made["better"], *made["alike"]])
    return {
        "truth": truth,
        **_verdicts(evenings, made, truth[BETTER] - truth[WORSE]),
        **_quality(engine, judged),
        "gain": _gains(engine, offline_gain(bundles[BETTER], data, index, offline), judged[BETTER]),
    }


def _verdicts(
    evenings: Sequence[Mapping[str, Mapping[str, Any]]], made: Mapping[str, Sequence[OutcomeStream]], truth: float
) -> dict[str, Any]:
    last = evenings[-1]
    better = [last[stream.model] for stream in made["better"]]
    alarms = {m for evening in evenings for m, row in evening.items() if row["verdict"] in ("better", "worse")}
    return {
        "true_difference": truth,
        "found_better": sum(row["verdict"] == "better" for row in better),
        "found_worse": sum(row["verdict"] == "worse" for row in better),
        "interval_covers": sum(row["difference_low"] <= truth <= row["difference_high"] for row in better),
        "mean_difference": float(np.mean([row["difference"] for row in better])),
        "mean_margin": float(np.mean([row["difference_high"] - row["difference"] for row in better])),
        "false_alarms": sum(stream.model in alarms for stream in made["alike"]),
        "false_alarms_of_one_look_each_day": _naive_alarms(evenings, made["alike"]),
    }


def _naive_alarms(evenings: Sequence[Mapping[str, Mapping[str, Any]]], alike: Sequence[OutcomeStream]) -> int:
    """Streams in which an interval for one look, looked at each evening, would have left out zero at least once: what
    the sequential test is for. Its half width is the sequence's, less what many looks cost."""
    alarms = set()
    for evening in evenings:
        for stream in alike:
            row = evening[stream.model]
            if row["difference"] is not None:
                margin = 1.96 * _deviation(row["difference_high"] - row["difference"])
                if abs(row["difference"]) > margin:
                    alarms.add(stream.model)
    return len(alarms)


def _deviation(margin: float) -> float:
    """Standard deviation of which a margin of the confidence sequence is that of one comparison."""
    from scipy.optimize import brentq

    from recsys_meta.metrics.sequential_test import sequence_margin

    return float(brentq(lambda sd: sequence_margin(sd * sd) - margin, 1e-6, 1.0))


def _quality(engine: Engine, judged: Mapping[str, JudgedPool]) -> dict[str, Any]:
    with reading(engine) as s:
        rows = {(row.model, row.model_version): row for row in s.execute(text(QUALITY))}
        days = s.execute(text("SELECT * FROM online_quality WHERE model LIKE 'better%'")).mappings().all()
    models = sorted({model for model, _ in rows if model.startswith("better")})
    result: dict[str, Any] = {
        f"online_quality_{name}": sum(
            getattr(rows[model, "v-new"], name) > getattr(rows[model, "v-old"], name) for model in models
        )
        for name in ("hit_10", "gain")
    }
    pools = {"v-new": judged[BETTER], "v-old": judged[WORSE]}
    for name in ("hit_10", "gain"):
        known = [row for row in days if row[f"{name}_low"] is not None and (name == "hit_10" or row["support_size"])]
        covered = sum(
            row[f"{name}_low"]
            <= getattr(pools[row["model_version"]], name)[:, row["support_size"]].mean()
            <= row[f"{name}_high"]
            for row in known
        )
        result[f"rows_with_interval_of_{name}"] = len(known)
        result[f"share_that_covers_{name}"] = covered / len(known)
    return result


def _gains(engine: Engine, offline: Sequence[tuple[float, float]], pool: JudgedPool) -> list[dict[str, float]]:
    """Gain of adapting by support size: online, over the streams of one version, and offline, over other users."""
    error = pool.gain.std(0, ddof=1)
    with reading(engine) as s:
        rows = s.execute(text(BY_SIZE), {"version": "v-new"}).all()
    made = []
    for row, (mean, offline_error) in zip(rows, offline, strict=True):
        own = (
            float(error[row.support_size]) / min(float(row.events), len(pool.gain)) ** 0.5
        )  # newcomers are drawn again
        difference = float(row.gain) - mean
        made.append(
            {
                "support_size": int(row.support_size),
                "online": float(row.gain),
                "online_error": own,
                "offline": mean,
                "offline_error": offline_error,
                "difference": difference,
                "is_within": abs(difference) <= 1.96 * (own**2 + offline_error**2) ** 0.5 + 1e-6,
            }
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--streams", type=int, default=100, help="of each of the two kinds")
    parser.add_argument("--newcomers", type=int, default=600, help="of each stream")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        found = measure(Path(folder), given.streams, given.newcomers, given.seed)
    for name, value in found.items():
        print(name, value)
    if given.json is not None:
        sizes = {"newcomers": given.newcomers, "events": EVENTS, "days": DAYS, "pool": POOL, "items": ITEMS}
        content = {
            "bench": "online streams",
            "command": " ".join(["python -m benchmarks.online_streams", *sys.argv[1:]]),
            "python": platform.python_version(),
            "seed": given.seed,
            "streams": given.streams,
            "sizes": sizes,
            "versions": {BETTER: f"{METHOD}, {TRAIN} users", WORSE: f"{METHOD}, {FEW} users"},
            "found": found,
        }
        given.json.write_text(dump_json(content, indent=1))


if __name__ == "__main__":
    main()
