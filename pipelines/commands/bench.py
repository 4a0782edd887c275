"""`recsys-meta bench`: medians of several timings, each case beside its reference in the same run."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import scipy.sparse as sp
import torch
import typer
from rich.markup import escape
from threadpoolctl import threadpool_limits

from pipelines.commands.comparison_output import command_line
from pipelines.console import JsonFile, err, print_table
from pipelines.workspace import Workspace
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.inference.one_shot import recommend
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.inference.state_codec import dump_state

app = typer.Typer(no_args_is_help=True)
REPEATS = 7


def medians(cases: Mapping[str, Callable[[], object]], calls: int) -> dict[str, float]:
    """Median milliseconds a call of each case; cases are timed in turn, `REPEATS` times, under the same conditions."""
    durations: dict[str, list[float]] = {name: [] for name in cases}
    for call in cases.values():
        call()
    for _ in range(REPEATS):
        for name, call in cases.items():
            began = time.perf_counter()
            for _ in range(calls):
                call()
            durations[name].append(1000 * (time.perf_counter() - began) / calls)
    return {name: statistics.median(values) for name, values in durations.items()}


@app.command("newcomer")
def newcomer(
    model: Annotated[str, typer.Argument(help="A published model.")],
    events: Annotated[int, typer.Option(min=1)] = 20,
    json_file: JsonFile = None,
) -> None:
    """One newcomer in process, one thread: adapt from its events, rank the catalogue, take ten.

    The reference is `implicit`'s fold-in and recommendation over factors of the same catalogue and 64 dimensions.
    """
    recommender = Recommender(Workspace().bundle(model))
    names = recommender.bundle.vocab.values["item"]
    rng = np.random.default_rng(0)
    positions = rng.choice(len(names), min(events, len(names) - 10), replace=False)
    request = EntityRequest(events=[Interaction(str(names[i])) for i in positions])
    entity = recommender.read_support(request)
    state = recommender.adapt([entity])
    case = f"{len(positions)} events, {len(names)} items"
    torch.set_num_threads(1)
    with threadpool_limits(1):
        times = medians(
            {
                "adapt + rank + top 10": lambda: recommend(recommender, request),
                "adapt": lambda: recommender.adapt([entity]),
                "rank + top 10 from a state": lambda: recommender.lists.top_k(
                    recommender.scores(state, [entity])[0], 10, exclude=entity.seen_items
                ),
                "implicit: recalculate + recommend": _implicit(len(names), positions),
            },
            calls=100,
        )
    reference = "implicit: recalculate + recommend"
    rows = [_row(case, system, value, "ms", times[reference], reference) for system, value in times.items()]
    rows.append(_row(case, "state of one newcomer", float(len(dump_state(state))), "bytes", None, ""))
    _finish("newcomer", rows, json_file)


def _implicit(items: int, positions: np.ndarray) -> Callable[[], object]:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(factors=64, num_threads=1)
    rng = np.random.default_rng(0)
    model.item_factors = rng.standard_normal((items, 64)).astype(np.float32) / 8
    model.user_factors = rng.standard_normal((2, 64)).astype(np.float32) / 8
    row = sp.csr_matrix(
        (np.ones(len(positions), np.float32), (np.zeros(len(positions), int), positions)), shape=(1, items)
    )
    return lambda: model.recommend(0, row, N=10, recalculate_user=True)


@app.command("episodes")
def episodes(
    dataset: Annotated[str, typer.Argument(help="Data set by name or folder.")],
    tasks: Annotated[int, typer.Option(min=1)] = 64,
    json_file: JsonFile = None,
) -> None:
    """Drawing a meta-batch of episodes, against a loop over its tasks in Python."""
    from recsys_meta.episodes.collate import collate

    data, _ = Workspace().dataset(dataset)
    index = EventIndex.of(data)
    entities = torch.as_tensor(index.entities_with(2))
    generator = torch.Generator().manual_seed(0)
    batch_entities = entities[torch.randperm(len(entities), generator=generator)[:tasks]]
    shots = torch.randint(0, 40, (len(batch_entities),), generator=generator)
    indptr, item = index.indptr.numpy(), index.item.numpy()

    def loop() -> object:
        rng = np.random.default_rng(0)
        items = [rng.permutation(item[indptr[e] : indptr[e + 1]]) for e in batch_entities.tolist()]
        supports = [row[:size].tolist() for row, size in zip(items, shots.tolist(), strict=True)]
        queries = [row[size:].tolist() for row, size in zip(items, shots.tolist(), strict=True)]
        return [collate(rows, [[1.0] * len(r) for r in rows]) for rows in (supports, queries)]

    cases = {"draw": lambda: index.draw(batch_entities, shots, generator=generator), "loop over tasks": loop}
    times = medians(cases, calls=20)
    rows = [
        _row(f"{len(batch_entities)} tasks", s, v, "ms", times["loop over tasks"], "loop over tasks")
        for s, v in times.items()
    ]
    _finish("episodes", rows, json_file)


def _row(case: str, system: str, value: float, unit: str, reference: float | None, name: str) -> dict[str, Any]:
    ratio = None if reference is None else reference / value
    return {"case": case, "system": system, "value": value, "unit": unit, "ratio": ratio, "reference": name}


def _finish(bench: str, rows: list[dict[str, Any]], json_file: Path | None) -> None:
    columns = ("case", "system", "value", "unit", "ratio", "reference")
    print_table(f"bench {bench}", columns, [[r[c] for c in columns] for r in rows])
    if json_file is not None:
        machine = {"processor": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
        content = {"bench": bench, "machine": machine, "command": command_line(), "rows": rows}
        write_file(json_file, dump_json(content, indent=1).encode())
        err.print(f"[dim]wrote {escape(str(json_file))}[/]", soft_wrap=True)
