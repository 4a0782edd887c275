"""Adapting to one newcomer and ranking the catalogue for it, beside `implicit` in the same run.

    python -m benchmarks.adapting --model flagship-movielens-1m --items 100000 --json benchmarks/results/adapting.json

A call reads a newcomer's 20 events, adapts, ranks all items and takes ten, one thread, no cache but that of starts. The
reference is `recommend(recalculate_user=True)` of `implicit` with 64 factors for a catalogue of the same size, whose
events are a sparse row already. Systems take turns, round after round, each with newcomers of its own choice from the
same ones, so that all meet the same machine. Times are of the processor, not of the clock: what other processes do
between is not counted, but what they do to the caches is. `ratio` is the reference's time over a system's.

A model is published, or the folder of a bundle. `--items N` makes one of N items that is not trained, since the values
of parameters cost nothing: the flagship's towers, and iALS with prior fitted on drawn events.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from threadpoolctl import threadpool_limits

from benchmarks.bench_servers import drawn_events
from benchmarks.machine import machine_facts
from pipelines.workspace import Workspace
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.core.types import FIRST
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.inference.one_shot import recommend
from recsys_meta.inference.ranking.catalogue_sketch import best_items
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.inference.state_codec import dump_state
from recsys_meta.models.bundle import Bundle, make_bundle
from recsys_meta.models.ensemble import EnsembleConfig, EnsembleMember
from recsys_meta.models.ensemble.ensemble import member_params
from recsys_meta.models.factory import build_ensemble
from recsys_meta.models.learners import LEARNERS
from recsys_meta.store.settings import SKETCH_FROM

EVENTS, N, NEWCOMERS, BATCH = 20, 10, 64, 16
REFERENCE = "implicit: recalculate + recommend"

Call = Callable[[], object]


def untrained_bundle(items: int) -> Bundle:
    """Build an ensemble of the flagship and iALS with prior over drawn events of a catalogue of some size."""
    data = drawn_events(items)
    index, train = EventIndex.of(data), np.arange(1200)
    flagship = EnsembleMember(predictor="flagship", config={"memories": []})
    config = EnsembleConfig(
        members=(flagship, EnsembleMember(predictor="ials-prior", config={"sweeps": 1})),
        shots=(0, 20),
        weights=((0.5, 0.1, 0.3, 0.1), (0.2, 0.3, 0.3, 0.2)),
    )
    ensemble = build_ensemble(config)
    learner, baseline = LEARNERS["flagship"](ensemble.members[0].config), ensemble.members[1]
    params = [learner.init(data, train, torch.Generator().manual_seed(0)), _fit(baseline, data, train)]
    return make_bundle(ensemble, member_params(params), data, index, train, {"note": "not trained"})


def _fit(baseline: Any, data: Any, train: np.ndarray) -> dict[str, torch.Tensor]:
    params: dict[str, torch.Tensor] = baseline.fit(data, train)
    return params


def newcomers(recommender: Recommender) -> list[EntityRequest]:
    """Draw newcomers with `EVENTS` events each, by popularity."""
    rng = np.random.default_rng(0)
    weight = recommender.catalog.popularity_scores[FIRST:].double().expm1().clamp(min=0).numpy() + 1e-3
    names = recommender.catalog.names
    return [
        EntityRequest(
            events=[Interaction(names[i]) for i in rng.choice(len(names), EVENTS, False, weight / weight.sum())]
        )
        for _ in range(NEWCOMERS)
    ]


def systems(recommender: Recommender) -> dict[str, Call]:
    """Calls by name; each goes through the newcomers in turn."""
    requests = newcomers(recommender)
    entities = [recommender.read_support(request) for request in requests]
    states = [recommender.adapt([entity]) for entity in entities]
    recommender.best_scores(states[0])
    turns = {name: cycle(range(NEWCOMERS)) for name in ("all", "adapt", "rank", "implicit")}
    batch = entities[:BATCH]

    def rank() -> object:
        i = next(turns["rank"])
        return recommender.lists.top_k(recommender.best_scores(states[i])[0], N, exclude=entities[i].seen_items)

    calls: dict[str, Call] = {
        "adapt + rank + top 10": lambda: recommend(recommender, requests[next(turns["all"])], N),
        "adapt": lambda: recommender.adapt([entities[next(turns["adapt"])]]),
        "rank + top 10 from a state": rank,
        f"batch of {BATCH}: adapt + rank": lambda: recommender.best_scores(recommender.adapt(batch)),
    }
    items = len(recommender.catalog.names)
    reference = _implicit(items, [[i - FIRST for i in entity.items] for entity in entities], turns["implicit"])
    return calls if reference is None else {REFERENCE: reference, **calls}


def _implicit(items: int, supports: Sequence[Sequence[int]], turn: Iterator[int]) -> Call | None:
    """The reference; None, with the reason printed, where the library is not installed."""
    try:
        from implicit.cpu.als import AlternatingLeastSquares
    except ImportError:
        print("no reference: implicit is not installed (pip install 'recsys-meta[baselines]')", file=sys.stderr)
        return None
    model, rng = AlternatingLeastSquares(factors=64, num_threads=1), np.random.default_rng(0)
    model.item_factors = rng.standard_normal((items, 64)).astype(np.float32) / 8
    model.user_factors = rng.standard_normal((2, 64)).astype(np.float32) / 8
    rows = [sp.csr_matrix((np.ones(len(s), np.float32), ([0] * len(s), list(s))), shape=(1, items)) for s in supports]
    return lambda: model.recommend(0, rows[next(turn)], N=N, recalculate_user=True)


def medians(cases: Mapping[str, Call], rounds: int, calls: int) -> dict[str, float]:
    """Median over rounds of the milliseconds of processor time that a call takes."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for call in cases.values():
        call()
    for _ in range(rounds):
        for name, call in cases.items():
            began = time.thread_time()
            for _ in range(calls):
                call()
            taken[name].append(1000 * (time.thread_time() - began) / calls)
    return {name: statistics.median(values) for name, values in taken.items()}


def measure(label: str, bundle: Bundle, rounds: int, calls: int, sketch_from: int) -> list[dict[str, Any]]:
    """Rows of one model."""
    recommender = Recommender(bundle, sketch_from)
    case = f"{label}: {EVENTS} events, {len(recommender.catalog.names):,} items"
    times = medians(systems(recommender), rounds, calls)
    reference = times.get(REFERENCE)
    rows = []
    for system, value in times.items():
        per_newcomer = value / BATCH if system.startswith("batch") else value
        ratio = None if reference is None else reference / per_newcomer
        rows.append(_row(case, system, per_newcomer, "ms", ratio, REFERENCE))
        print(f"{case}: {system}: {per_newcomer:.3f} ms, ratio {ratio}", file=sys.stderr)
    recommended = newcomers(recommender)
    state = recommender.adapt([recommender.read_support(recommended[0])])
    if recommender.sketch is not None:
        rows += _sketch_rows(case, recommender, recommended)
    rows.append(_row(case, "state of one newcomer", float(len(dump_state(state))), "bytes"))
    held = sum(t.untyped_storage().nbytes() for t in {t.data_ptr(): t for t in recommender.body.values()}.values())
    rows.append(_row(case, "tensors that serving holds", held / 2**20, "MiB"))
    return rows


def _sketch_rows(case: str, recommender: Recommender, requests: Sequence[EntityRequest]) -> list[dict[str, Any]]:
    """Recall of the ten best by a sketch, the events among them, and how many directions it has."""
    sketch = recommender.sketch
    assert sketch is not None
    states = [recommender.adapt([recommender.read_support(request)]) for request in requests]
    recall = torch.cat([sketch.recall(state, best_items(recommender.scores(state))) for state in states])
    print(f"{case}: recall@10 {recall.mean():.4f} by {sketch.directions} directions", file=sys.stderr)
    return [
        _row(case, "two stages", float(recall.mean()), "recall@10", 1.0, "all scores"),
        _row(case, "two stages", float(sketch.directions), "directions"),
    ]


def _row(
    case: str, system: str, value: float, unit: str, ratio: float | None = None, reference: str = ""
) -> dict[str, Any]:
    return {"case": case, "system": system, "value": value, "unit": unit, "ratio": ratio, "reference": reference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", default=[], help="a published model, or the folder of a bundle")
    parser.add_argument("--items", action="append", type=int, default=[], help="a catalogue of so many drawn items")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=10, help="calls of each system in a round")
    parser.add_argument("--sketch-from", type=int, default=SKETCH_FROM, help="items from which on there are two stages")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with threadpool_limits(1):
        for name in given.model:
            label = Path(name).name if Workspace.is_bundle(name) else name
            rows += measure(label, Workspace().bundle(name), given.rounds, given.calls, given.sketch_from)
        for items in given.items:
            bundle = untrained_bundle(items)
            rows += measure("not trained", bundle, given.rounds, given.calls, given.sketch_from)
    if given.json is not None:
        machine = machine_facts()
        command = " ".join(["python -m benchmarks.adapting", *sys.argv[1:]])
        content = {"bench": "adapting", "machine": machine, "command": command, "rows": rows}
        write_file(given.json, dump_json(content, indent=1).encode())


if __name__ == "__main__":
    main()
