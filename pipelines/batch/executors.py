"""Backends of a batch job: this process, or several under Ray. Their results are the same.

Ray is given a task for each chunk of the table, in order, and some more than it has processes; nothing else. Only the
process of the command writes files, so that a task which outlives it harms nothing, and what `resumable_job` promises
of a kill holds for both backends. (Ray Data would read, order and write by its own rules, of which the job needs
none.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import typer

from pipelines.batch.batch_inference import recommend_chunk
from pipelines.batch.stored_items import items_digest, with_stored
from pipelines.ray_runtime import check_ray, local_ray, ordered_results
from recsys_meta.core.errors import ConfigError
from recsys_meta.inference.new_items.stored_items import StoredItem
from recsys_meta.inference.recommender import Recommender
from recsys_meta.models.bundle import load_bundle

ChunkResult = tuple[pa.Table, int]
"""The results of a chunk of a table, and the number of its events."""


CHUNKS_PER_WORKER = 2
"""Chunks given out for each process: one that it is at, one that waits for it."""


class ExecutionBackend(StrEnum):
    """The processes that adapt: this one, or those of Ray."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True)
class BatchTask:
    """A list of `n` items for every entity of a table of events, by the model that lies in a folder and with the items
    that are stored."""

    recommender: Recommender
    folder: Path
    events: Path
    n: int
    stored: tuple[StoredItem, ...] = ()


ChunkRunner = Callable[[BatchTask, Iterable[pd.DataFrame]], Iterator[ChunkResult]]
"""Computes the results of the chunks of a table, in their order."""


def check_backend(engine: ExecutionBackend, workers: int | str | None) -> None:
    """Raise typer.BadParameter where the backend is not installed, or has no workers."""
    if engine is ExecutionBackend.LOCAL and workers is not None:
        raise typer.BadParameter("only --engine ray has workers", param_hint="--workers")
    if engine is ExecutionBackend.RAY:
        check_ray()


def backend(engine: ExecutionBackend, workers: int | None = None) -> AbstractContextManager[ChunkRunner]:
    """Open a backend that runs until the block ends. Raises ConfigError where it does not start."""
    return nullcontext(_run_locally) if engine is ExecutionBackend.LOCAL else _ray_backend(workers)


def _run_locally(task: BatchTask, chunks: Iterable[pd.DataFrame]) -> Iterator[ChunkResult]:
    return map(partial(recommend_chunk, task.recommender, task.events, task.n), chunks)


@contextmanager
def _ray_backend(workers: int | None) -> Iterator[ChunkRunner]:
    # Ray prints to standard output that a worker died, although another does its work.
    with redirect_stdout(StringIO()), local_ray(workers) as ray:
        yield partial(_run_under_ray, ray, CHUNKS_PER_WORKER * int(ray.cluster_resources()["CPU"]))


def _run_under_ray(ray: Any, limit: int, task: BatchTask, chunks: Iterable[pd.DataFrame]) -> Iterator[ChunkResult]:
    """Compute the results of chunks, of which `limit` are given out at once."""
    model = WorkerModel(task.folder.resolve(), task.recommender.version, items_digest(task.stored))
    stored = ray.put(task.stored)
    submit = partial(ray.remote(_recommend_in_worker).remote, model, stored, task.events, task.n)
    return ordered_results(ray, submit, chunks, limit)


class WorkerModel(NamedTuple):
    """Key of a model with stored items: the folder and version of its bundle, and the digest of the items."""

    folder: Path
    version: str
    items: str


def _recommend_in_worker(
    model: WorkerModel, stored: tuple[StoredItem, ...], events: Path, n: int, chunk: pd.DataFrame
) -> ChunkResult:
    """Compute the results of a chunk, in a process of Ray."""
    if model not in _LOADED:
        _LOADED.clear()
        _LOADED[model] = with_stored(_recommender(model), stored)
    return recommend_chunk(_LOADED[model], events, n, chunk)


_LOADED: dict[WorkerModel, Recommender] = {}
"""The model of this process, loaded once."""


def _recommender(model: WorkerModel) -> Recommender:
    """Load the model. Raises ConfigError where another lies there by now."""
    bundle = load_bundle(model.folder)
    if bundle.version != model.version:
        raise ConfigError(f"{model.folder} was changed meanwhile: run it again")
    return Recommender(bundle)
