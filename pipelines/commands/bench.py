"""`recsys-meta bench`: each row is timed side by side with its reference in the same run, several times, medians."""

from __future__ import annotations

import json
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

from pipelines.commands.evaluate import command_line
from pipelines.console import JsonFile, err, print_table
from pipelines.workspace import Workspace
from recsys_meta.core.atomic_io import write_file
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.inference.one_shot import recommend
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.inference.state_codec import dump_state

app = typer.Typer(no_args_is_help=True)
REPEATS = 7


def medians(cases: Mapping[str, Callable[[], object]], calls: int) -> dict[str, float]:
    """Milliseconds a call: each case is timed in turn, `REPEATS` times over, so that all meet the same machine."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for call in cases.values():
        call()
    for _ in range(REPEATS):
        for name, call in cases.items():
            began = time.perf_counter()
            for _ in range(calls):
                call()
            taken[name].append(1000 * (time.perf_counter() - began) / calls)
    return {name: statistics.median(values) for name, values in taken.items()}


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
    chosen = rng.choice(len(names), min(events, len(names) - 10), replace=False)
    someone = EntityRequest(events=[Interaction(str(names[i])) for i in chosen])
    known = recommender.read_support(someone)
    state = recommender.adapt([known])
    case = f"{len(chosen)} events, {len(names)} items"
    torch.set_num_threads(1)
    with threadpool_limits(1):
        times = medians(
            {
                "adapt + rank + top 10": lambda: recommend(recommender, someone),
                "adapt": lambda: recommender.adapt([known]),
                "rank + top 10 from a state": lambda: recommender.lists.top_k(
                    recommender.scores(state)[0], 10, exclude=known.seen
                ),
                "implicit: recalculate + recommend": _implicit(len(names), chosen),
            },
            calls=100,
        )
    reference = "implicit: recalculate + recommend"
    rows = [_row(case, system, value, "ms", times[reference], reference) for system, value in times.items()]
    rows.append(_row(case, "state of one newcomer", float(len(dump_state(state))), "bytes", None, ""))
    _finish("newcomer", rows, json_file)


def _implicit(items: int, chosen: np.ndarray) -> Callable[[], object]:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(factors=64, num_threads=1)
    rng = np.random.default_rng(0)
    model.item_factors = rng.standard_normal((items, 64)).astype(np.float32) / 8
    model.user_factors = rng.standard_normal((2, 64)).astype(np.float32) / 8
    row = sp.csr_matrix((np.ones(len(chosen), np.float32), (np.zeros(len(chosen), int), chosen)), shape=(1, items))
    return lambda: model.recommend(0, row, N=10, recalculate_user=True)


@app.command("episodes")
def episodes(
    dataset: Annotated[str, typer.Argument(help="Data set by name or folder.")],
    tasks: Annotated[int, typer.Option(min=1)] = 64,
    json_file: JsonFile = None,
) -> None:
    """Drawing a meta-batch of episodes, against a loop over its tasks in Python."""
    from recsys_meta.episodes.collate import collate
    from recsys_meta.episodes.event_index import draw_episodes

    data, _ = Workspace().dataset(dataset)
    index = EventIndex.of(data)
    entities = torch.as_tensor(index.entities_with(2))
    generator = torch.Generator().manual_seed(0)
    some = entities[torch.randperm(len(entities), generator=generator)[:tasks]]
    shots = torch.randint(0, 40, (len(some),), generator=generator)
    indptr, item = index.indptr.numpy(), index.item.numpy()

    def loop() -> object:
        rng = np.random.default_rng(0)
        drawn = [rng.permutation(item[indptr[e] : indptr[e + 1]]) for e in some.tolist()]
        pairs = [(d[:s], d[s:]) for d, s in zip(drawn, shots.tolist(), strict=True)]
        both = [[p[0].tolist() for p in pairs], [p[1].tolist() for p in pairs]]
        return [collate(rows, [[1.0] * len(r) for r in rows]) for rows in both]

    cases = {"draw": lambda: draw_episodes(index, some, shots, generator=generator), "loop over tasks": loop}
    times = medians(cases, calls=20)
    rows = [
        _row(f"{len(some)} tasks", s, v, "ms", times["loop over tasks"], "loop over tasks") for s, v in times.items()
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
        write_file(json_file, json.dumps(content, indent=1).encode())
        err.print(f"[dim]wrote {escape(str(json_file))}[/]", soft_wrap=True)
