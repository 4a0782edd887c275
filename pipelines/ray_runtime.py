"""Ray for one command: started on this machine for this process alone, or the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

import typer

from recsys_meta.core.errors import ConfigError, RecsysMetaError

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Variable that names a cluster; `ray job submit` sets it for what it runs there."""

OBJECT_STORE_BYTES = 128 * 2**20
"""Bytes that values may take on their way between processes; beyond that Ray puts them on the disk."""


def check_ray() -> None:
    """Raise typer.BadParameter where Ray is not installed."""
    if find_spec("ray") is None:
        raise typer.BadParameter("Ray is missing: pip install 'recsys-meta[ray]'", param_hint="--engine")


@contextmanager
def local_ray(workers: int | None, *, shows_workers: bool = False) -> Iterator[Any]:
    """Start Ray on this machine, with so many processors (None: all), until the block ends; yield its module.

    `shows_workers`: print what its processes print. Raises ConfigError where it does not start.
    """
    ray = _import_ray()
    with TemporaryDirectory(prefix="ray-") as folder:
        try:
            _start(
                ray,
                address="local",
                num_cpus=workers,
                num_gpus=None if shows_workers else 0,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=shows_workers,
                _temp_dir=folder,
            )
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def ray_cluster(workers: int) -> Iterator[Any]:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine with so many processors, until the
    block ends; yield its module. Raises ConfigError where there is none."""
    address = os.environ.get(ADDRESS_VARIABLE)
    if not address:
        with local_ray(workers, shows_workers=True) as ray:
            yield ray
        return
    ray = _import_ray()
    # What settings are read from; a worker on another machine has an environment of its own.
    own = {name: value for name, value in os.environ.items() if name.startswith("RECSYS_META_")}
    try:
        _start(ray, address=address, runtime_env={"env_vars": own}, log_to_driver=True)
        yield ray
    finally:
        ray.shutdown()


def ordered_results(ray: Any, submit: Callable[[Any], Any], pieces: Iterable[Any], limit: int) -> Iterator[Any]:
    """Yield the result of each piece in order, of which `limit` are given out at once as tasks by `submit`.

    Ray begins again what a process that died was at. Raises what a task raises of this project's own errors.
    """
    pending: deque[Any] = deque()
    for piece in pieces:
        pending.append(submit(piece))
        if len(pending) == limit:
            yield _result(ray, pending.popleft())
    for task in pending:
        yield _result(ray, task)


def _result(ray: Any, task: Any) -> Any:
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RecsysMetaError):
            raise error.cause from None
        raise


def _import_ray() -> Any:
    # Read when Ray is imported. Without the first it listens on all interfaces; without a token it writes one into the
    # user's home.
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    if not os.environ.get(ADDRESS_VARIABLE):  # a cluster has a token of its own, or none
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a change to come
    # Workers do all the work: by Ray's own niceness of 15 they would wait for whatever else runs on the machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")  # each imports torch; 60 s by itself
    import ray

    return ray


def _start(ray: Any, **options: Any) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"Ray does not start: {error}") from None
    signal.signal(signal.SIGTERM, handler)  # Ray's own prints the stack of each thread
