"""Processes of one training run, as torchrun starts them: this process's place among them, from the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from recsys_meta.core.errors import ConfigError, ProcessGroupError
from recsys_meta.training.training_group import TrainingGroup

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torchrun sets; where one is missing, a process is alone."""
LONGEST_WAIT = timedelta(hours=12)
"""Time that processes wait for the one that prepares data or validates. One that has ended is noticed at once."""


@contextmanager
def training_group(environment: Mapping[str, str] = os.environ) -> Iterator[TrainingGroup | None]:
    """Join the processes that torchrun has started; None where it has not, or has started a single one.

    Raises ConfigError if its variables are not numbers, ProcessGroupError if the processes do not find one another.
    """
    group = _place(environment)
    if group is None or group.size == 1:
        yield None
        return
    # Small messages and decisions are in host memory wherever training runs.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
        # Nobody goes on, and perhaps ends, before all are connected: who still connects to it would wait for hours.
        dist.all_reduce(torch.zeros(1))
    except (RuntimeError, ValueError) as error:
        raise ProcessGroupError(f"the {group.size} processes of this run do not find one another: {error}") from None
    try:
        yield group
    finally:
        dist.destroy_process_group()


def _place(environment: Mapping[str, str]) -> TrainingGroup | None:
    if any(not environment.get(name) for name in VARIABLES):
        return None
    try:
        return TrainingGroup(*(int(environment[name]) for name in VARIABLES[:4]))
    except ValueError:
        values = ", ".join(f"{name}={environment[name]}" for name in VARIABLES[:4])
        raise ConfigError(f"torchrun's variables are not numbers: {values}") from None
