"""The ten best of a million items: exact scans in several precisions, and approximate indexes, on vectors of a model.

    python -m benchmarks.catalogue make FOLDER                       # simulate, train the flagship: hours on one core
    python -m benchmarks.catalogue measure BUNDLE --json FILE        # milliseconds, recall, memory
    python -m benchmarks.catalogue measure BUNDLE --grow 1000000     # a small model's vectors, with jittered copies

Queries are states of newcomers after five events, drawn by popularity. Recall is the share of the exact ten best
(fp32, without items that the newcomer has seen) that a system finds; those that scan few bytes take 200 and score them
in fp32. Indexes are measured where `faiss` is installed (`pip install faiss-cpu`); the project does not need it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from torch import Tensor

from benchmarks.bench_servers import api_server, install, resident
from benchmarks.machine import machine_facts
from pipelines.workspace import find_recipe
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.core.types import FIRST, Interactions, State
from recsys_meta.data import prepare
from recsys_meta.data.simulators.users import simulate_users
from recsys_meta.episodes.event_index import EventIndex, order_rows
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.inference.ranking.topk import top_k
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest, Interaction
from recsys_meta.models.bundle import Bundle, load_bundle, make_bundle, save_bundle
from recsys_meta.models.learners import LEARNERS
from recsys_meta.models.learners.ranking.flagship import Flagship
from recsys_meta.models.learners.ranking.memory_gates import gate_weight
from recsys_meta.models.learners.ranking.memory_logits import posterior_weights
from recsys_meta.training.trainer import fit, start_training

N, EVENTS, QUERIES, TAKEN = 10, 5, 64, 200
JITTER = 0.3
"""Deviation of a copy from its item, in deviations of the coordinate over items."""

Search = Callable[[int], Sequence[int]]
"""Function of a query's number: ids of the best items, those that its newcomer has seen left out."""


def make(folder: Path, items: int, users: int, events: int, steps: int) -> Path:
    """Train the flagship (one tower, sampled softmax, the posterior memory) on a simulated catalogue."""
    data = prepare(simulate_users(users=users, items=items, events=events).tables, folder / "data")
    index = EventIndex.of(data)
    split = split_by_seed(index.entities_with(2), 0)
    epochs = -(-steps // -(-len(split.train) // 64))
    settings = ["config.towers=1", "config.negatives=4096", 'config.memories=["posterior"]']
    settings += [f"train.epochs={epochs}", "train.tasks=64", "train.warmup=5", "train.validate_every=1000"]
    recipe = find_recipe("flagship", settings)
    learner = LEARNERS["flagship"](LEARNERS["flagship"].Config(**recipe.config))
    run = start_training(learner, recipe, data, index, split.train, 0)
    for step in fit(run, lambda params: 0.0):
        print(f"{step.step} of {steps}: loss {step.loss:.3f}, {step.seconds:.0f} s", file=sys.stderr)
        if step.step == steps:
            break
    # A few newcomers: a calibration holds scores of the whole catalogue for each.
    rows = order_rows(index, data.schema.order, 0)
    episodes = [episodes_at(data, rows, split.valid[:16], shots, None, 0) for shots in (1, 5, 20)]
    params = learner.calibrate({k: v.detach() for k, v in run.params.items()}, episodes)
    made = make_bundle(learner, params, data, index, split.train, {"note": f"simulated catalogue, {steps} steps"})
    return save_bundle(made, folder / "bundle")


@dataclass(frozen=True)
class RetrievalProblem:
    """Item vectors [C, D] and queries [Q, D], whose product is a score, and the items that each newcomer has seen.

    Searches return the ids of the `N` best items of a query, best first, without those that its newcomer has seen.
    """

    vectors: Tensor
    queries: Tensor
    seen_items: Sequence[Sequence[int]]

    def blocked_top_k(self, q: int) -> list[int]:
        """Search by one product and a top-k over blocks."""
        return self.best_of(self.vectors @ self.queries[q], q)

    def full_top_k(self, q: int) -> list[int]:
        """Search by one product and a top-k over all items at once."""
        return self._mask_seen(self.vectors @ self.queries[q], q).topk(N).indices.tolist()

    def best_of(self, scores: Tensor, q: int) -> list[int]:
        """Return the best by scores [C], which are overwritten where an item must not be found."""
        return [i for _, i in top_k(self._mask_seen(scores, q), N)]

    def _mask_seen(self, scores: Tensor, q: int) -> Tensor:
        scores[:FIRST] = -torch.inf
        scores[self.seen_items[q]] = -torch.inf
        return scores

    def rescored(self, q: int, candidates: Tensor) -> list[int]:
        """Return the best of some item ids [K], scored in fp32."""
        scores = self.vectors[candidates] @ self.queries[q]
        scores[torch.isin(candidates, torch.tensor([0, 1, *self.seen_items[q]]))] = -torch.inf
        return candidates[scores.topk(min(N, len(candidates))).indices].tolist()


def newcomers(recommender: Recommender) -> list[EncodedEntity]:
    """Newcomers with `EVENTS` events each, drawn by popularity."""
    rng, chance = (
        np.random.default_rng(0),
        recommender.catalog.popularity_scores[FIRST:].double().expm1().clamp(min=0).numpy(),
    )
    chosen = [rng.choice(len(chance), EVENTS, replace=False, p=chance / chance.sum()) for _ in range(QUERIES)]
    return [
        recommender.read_support(
            EntityRequest(events=[Interaction(recommender.catalog.item_name(i + FIRST)) for i in c])
        )
        for c in chosen
    ]


def retrieval_problem(
    recommender: Recommender, state: State, known: Sequence[EncodedEntity], grow: int
) -> RetrievalProblem:
    """Build the product of the flagship's towers and its posterior memory, with items copied until there are `grow`.

    Item-item memories are left out: they speak of few items, which any system would add.
    """
    learner, body = recommender.bundle.predictor, recommender.body
    assert isinstance(learner, Flagship)
    towers = body["vectors"].shape[0]
    vectors, queries = [body["vectors"].transpose(0, 1).flatten(1)], [state["z"].flatten(1) / towers]
    for kind, gate, spread in zip(learner.config.memories, body["gate"].tolist(), body["spread"], strict=True):
        if kind == "posterior" and gate[0]:
            table = {k.rsplit(".", 1)[1]: v for k, v in body.items() if k.startswith("memory.posterior.")}
            rows = Interactions(state["item"], state["item"].float(), state["item"] > 0)
            trusted = gate_weight(kind, (gate[0], gate[1]), state["size"].float())[:, None]
            vectors, queries = (
                [*vectors, table["items"]],
                [*queries, posterior_weights(learner.config, table, rows) * trusted / spread],
            )
    whole = torch.cat(vectors, 1)
    if grow > len(whole):
        generator, deviation = torch.Generator().manual_seed(0), whole[FIRST:].std(0)
        source = torch.randint(FIRST, len(whole), (grow - len(whole),), generator=generator)
        copies = whole[source] + JITTER * deviation * torch.randn(len(source), whole.shape[1], generator=generator)
        whole = torch.cat([whole, copies])
    seen_items = [sorted(one.seen_items) for one in known]
    return RetrievalProblem(whole.contiguous(), torch.cat(queries, 1).contiguous(), seen_items)


def half_precision_scan(problem: RetrievalProblem, kind: torch.dtype) -> Search:
    """Scan all items in 16 bits, and score the `TAKEN` best of them in fp32."""
    vectors, queries = problem.vectors.to(kind), problem.queries.to(kind)
    return lambda q: problem.rescored(q, torch.topk(vectors @ queries[q], TAKEN).indices)


def batched_product(problem: RetrievalProblem) -> Search:
    """Score 32 newcomers in one product when the first is asked for; the mean over queries is the time of one."""
    block, scores = 32, dict[int, Tensor]()

    def search(q: int) -> list[int]:
        if q % block == 0:
            scores.clear()
            scores.update(enumerate(problem.queries[q : q + block] @ problem.vectors.T, q))
        return problem.best_of(scores[q], q)

    return search


def faiss_indexes(problem: RetrievalProblem) -> dict[str, Callable[[], Search]]:
    """Indexes of faiss by name, each built when it is called; none where faiss is not installed."""
    try:
        import faiss
    except ImportError:
        return {}
    faiss.omp_set_num_threads(1)
    vectors, queries = problem.vectors.numpy(), problem.queries.numpy()
    dims = vectors.shape[1]

    def search(index: Any, taken: int = TAKEN) -> Search:
        def one(q: int) -> list[int]:
            candidates = torch.from_numpy(index.search(queries[q : q + 1], taken)[1][0])
            return problem.rescored(q, candidates[candidates >= 0])

        return one

    def scan(kind: int) -> Search:
        index = faiss.IndexScalarQuantizer(dims, kind, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:: max(1, len(vectors) // 100_000)])
        index.add(vectors)
        return search(index)

    def lists() -> Any:
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dims), dims, 2048, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.max_points_per_centroid = 8, 40
        index.train(vectors)
        index.add(vectors)
        return index

    def graph() -> Any:
        index = faiss.IndexHNSWFlat(dims, 16, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 40
        index.add(vectors)
        return index

    made: dict[str, Any] = {}

    def tuned(name: str, build: Callable[[], Any], change: Callable[[Any], None]) -> Search:
        index = made.get(name) or made.setdefault(name, build())
        change(index)
        return search(index)

    def probes(n: int) -> Callable[[], Search]:
        return lambda: tuned("lists", lists, lambda index: setattr(index, "nprobe", n))

    def beam(n: int) -> Callable[[], Search]:
        return lambda: tuned("graph", graph, lambda index: setattr(index.hnsw, "efSearch", n))

    return {
        "faiss fp16 scan": lambda: scan(faiss.ScalarQuantizer.QT_fp16),
        "faiss int8 scan": lambda: scan(faiss.ScalarQuantizer.QT_8bit),
        **{f"faiss IVF2048, {n} probes": probes(n) for n in (16, 64, 256)},
        **{f"faiss HNSW16, beam {n}": beam(n) for n in (200, 800)},
    }


def measure(bundle: Path, grow: int) -> list[dict[str, Any]]:
    """Rows of milliseconds a request and of recall; of booting and serving as well where nothing is grown."""
    began, before = time.perf_counter(), _anonymous()
    recommender = Recommender(load_bundle(bundle))
    boot, held = time.perf_counter() - began, _anonymous() - before
    known = newcomers(recommender)
    state = recommender.adapt(known)
    problem = retrieval_problem(recommender, state, known, grow)
    case = f"{len(problem.vectors):,} items, {problem.vectors.shape[1]} numbers each"
    rows = []
    if not grow:
        rows = [_row(case, "boot of a Recommender", boot, "s"), _row(case, "memory of it", held / 2**20, "MiB")]
        rows += _served(case, recommender, known)
        rows += _over_http(case, load_bundle(bundle), known, recommender.catalog.item_name)
    truth = [problem.blocked_top_k(q) for q in range(QUERIES)]
    exact = "fp32 product, blocked top 10"
    systems: dict[str, Callable[[], Search]] = {
        exact: lambda: problem.blocked_top_k,
        "fp32 product, torch.topk": lambda: problem.full_top_k,
        "32 newcomers in one fp32 product": lambda: batched_product(problem),
        "bf16 scan": lambda: half_precision_scan(problem, torch.bfloat16),
        "fp16 scan": lambda: half_precision_scan(problem, torch.float16),
        **faiss_indexes(problem),
    }
    reference = 0.0
    for system, prepare_ in systems.items():
        began = time.perf_counter()
        search = prepare_()
        built = time.perf_counter() - began
        taken, found = [], []
        search(0)
        for q in range(QUERIES):
            began = time.perf_counter()
            found.append(search(q))
            taken.append(1000 * (time.perf_counter() - began))
        share = float(np.mean([len(set(f) & set(t)) / len(t) for f, t in zip(found, truth, strict=True)]))
        value = statistics.fmean(taken) if "32" in system else statistics.median(taken)
        reference = reference or value
        rows.append(_row(case, system, value, "ms", reference / value, exact))
        rows.append(_row(case, system, share, "recall@10"))
        rows.append(_row(case, system, built, "s to build"))
        print(f"{case}: {system}: {value:.2f} ms, recall {share:.3f}, {built:.0f} s to build", file=sys.stderr)
    return rows


def _served(case: str, recommender: Recommender, known: Sequence[EncodedEntity]) -> list[dict[str, Any]]:
    """Rows of the steps of an answer as `Recommender` takes them."""
    taken: dict[str, list[float]] = {"adapt": [], "score all": [], "take ten": []}
    for one in known:
        marks = [time.perf_counter()]
        state = recommender.adapt([one])
        marks.append(time.perf_counter())
        scores = recommender.scores(state)[0]
        marks.append(time.perf_counter())
        recommender.lists.top_k(scores, N, exclude=one.seen_items)
        marks.append(time.perf_counter())
        for name, begin, end in zip(taken, marks, marks[1:], strict=False):
            taken[name].append(1000 * (end - begin))
    return [_row(case, f"as served: {name}", statistics.median(ms), "ms") for name, ms in taken.items()]


def _over_http(
    case: str, bundle: Bundle, known: Sequence[EncodedEntity], names: Callable[[int], str]
) -> list[dict[str, Any]]:
    """Rows of a server of the model: seconds to ready, memory, milliseconds of a newcomer whom nobody knows."""
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder), bundle)
        began = time.perf_counter()
        with api_server(Path(folder), None) as (port, pid), httpx.Client(timeout=60) as client:
            ready = time.perf_counter() - began
            for one in known:
                body = {"events": [{"item": names(i)} for i in one.items], "n": N}
                began = time.perf_counter()
                answer = client.post(f"http://127.0.0.1:{port}/v1/recommendations", json=body).json()
                taken.append(1000 * (time.perf_counter() - began))
                assert len(answer["items"]) == N and answer["served_by"] == "adapted", answer
            held = resident(pid)
    return [
        _row(case, "over HTTP: adapt and recommend ten", statistics.median(taken), "ms"),
        _row(case, "over HTTP: slowest", max(taken), "ms"),
        _row(case, "server: start to ready", ready, "s"),
        _row(case, "server: resident memory", held / 2**20, "MiB"),
    ]


def _anonymous() -> int:
    """Bytes that belong to this process alone."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def _row(
    case: str, system: str, value: float, unit: str, ratio: float | None = None, reference: str = ""
) -> dict[str, Any]:
    return {"case": case, "system": system, "value": value, "unit": unit, "ratio": ratio, "reference": reference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make")
    making.add_argument("folder", type=Path)
    for name, size in (("items", 1_400_000), ("users", 3000), ("events", 4_000_000), ("steps", 99)):
        making.add_argument(f"--{name}", type=int, default=size)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("bundle", type=Path)
    measuring.add_argument("--grow", type=int, default=0, help="copy items, with noise, until there are so many")
    measuring.add_argument("--json", type=Path, help="rows are added to those of other commands that it holds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.verb == "make":
        print(make(given.folder, given.items, given.users, given.events, given.steps))
        return
    rows = measure(given.bundle, given.grow)
    if given.json is not None:
        _add(given.json, rows)


def _add(file: Path, rows: list[dict[str, Any]]) -> None:
    kept = json.loads(file.read_text())["rows"] if file.exists() else []
    cases = {row["case"] for row in rows}
    command = " ".join(["python -m benchmarks.catalogue", *sys.argv[1:]])
    machine = machine_facts()
    rows = [{**row, "command": command, "machine": machine} for row in rows]
    content = {"bench": "catalogue", "rows": [row for row in kept if row["case"] not in cases] + rows}
    write_file(file, dump_json(content, indent=1).encode())


if __name__ == "__main__":
    main()
