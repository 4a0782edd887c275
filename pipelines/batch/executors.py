"""Who answers the entities of a batch: this process, or several under Ray. Their answers are the same.

Ray is given a task for each piece of the table, in order, and some more than it has processes; nothing else. Only the
process of the command writes files, so that a task which outlives it harms nothing, and what `batch` promises of a kill
holds for both engines. (Ray Data would read, order and write by its own rules, of which `batch` needs none.)
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow as pa
import typer

from pipelines.batch.batch_inference import answers
from recsys_meta.core.errors import ConfigError, RecsysMetaError
from recsys_meta.inference.recommender import Recommender
from recsys_meta.models.bundle import load_bundle

Answered = tuple[pa.Table, int]
"""The answers to a piece of a table, and how many events it has."""


AHEAD = 2
"""Pieces given out for each process: one that it is at, one that waits for it."""

STORE = 128 * 2**20
"""Bytes that pieces and answers may take on their way; beyond that Ray puts them on the disk."""


class ExecutionBackend(StrEnum):
    """Who works."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True)
class BatchTask:
    """What is asked about every entity of a table of events: a list of `n` items by the model that lies in a folder."""

    recommender: Recommender
    folder: Path
    events: Path
    n: int


Answers = Callable[[BatchTask, Iterable[pd.DataFrame]], Iterator[Answered]]
"""Answers the pieces of a table, in their order."""


def check_engine(engine: ExecutionBackend, workers: int | None) -> None:
    """Raise typer.BadParameter where there is no such engine here, or it has no workers."""
    if engine is ExecutionBackend.LOCAL and workers is not None:
        raise typer.BadParameter("only --engine ray has workers", param_hint="--workers")
    if engine is ExecutionBackend.RAY and find_spec("ray") is None:
        raise typer.BadParameter("Ray is missing: pip install 'recsys-meta[ray]'", param_hint="--engine")


def backend(engine: ExecutionBackend, workers: int | None = None) -> AbstractContextManager[Answers]:
    """An engine that runs until the block ends. Raises ConfigError where it does not start."""
    return nullcontext(_here) if engine is ExecutionBackend.LOCAL else _ray(workers)


def _here(task: BatchTask, pieces: Iterable[pd.DataFrame]) -> Iterator[Answered]:
    return map(partial(answers, task.recommender, task.events, task.n), pieces)


@contextmanager
def _ray(workers: int | None) -> Iterator[Answers]:
    # Read when Ray is imported. Without the first it listens on all interfaces; without a token it writes one into the
    # user's home.
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a change to come
    import ray

    # Ray prints to standard output that a worker died, although another does its work.
    with TemporaryDirectory(prefix="ray-") as folder, redirect_stdout(StringIO()):
        try:
            _start(ray, workers, folder)
            yield partial(_there, ray, AHEAD * int(ray.cluster_resources()["CPU"]))
        finally:
            ray.shutdown()


def _start(ray: Any, workers: int | None, folder: str) -> None:
    """Start Ray for this process alone. Raises ConfigError where it does not start."""
    ended = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address="local",
            num_cpus=workers,
            num_gpus=0,
            object_store_memory=STORE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"Ray does not start: {error}") from None
    signal.signal(signal.SIGTERM, ended)  # Ray would tell where each thread was


def _there(ray: Any, most: int, task: BatchTask, pieces: Iterable[pd.DataFrame]) -> Iterator[Answered]:
    """The answers to pieces, of which `most` are given out at once."""
    given = partial(ray.remote(_answers).remote, task.folder.resolve(), task.recommender.version, task.events, task.n)
    out: deque[Any] = deque()
    for piece in pieces:
        out.append(given(piece))
        if len(out) == most:
            yield _result(ray, out.popleft())
    for one in out:
        yield _result(ray, one)


def _result(ray: Any, given: Any) -> Answered:
    try:
        answered: Answered = ray.get(given)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RecsysMetaError):
            raise error.cause from None
        raise
    return answered


def _answers(folder: Path, version: str, events: Path, n: int, piece: pd.DataFrame) -> Answered:
    """The answers to a piece, in a process of Ray."""
    return answers(_recommender(folder, version), events, n, piece)


@lru_cache(maxsize=1)
def _recommender(folder: Path, version: str) -> Recommender:
    """The model, read once in each process. Raises ConfigError where another lies there by now."""
    bundle = load_bundle(folder)
    if bundle.version != version:
        raise ConfigError(f"{folder} was changed meanwhile: run it again")
    return Recommender(bundle)
