"""Curriculum protocol of training, and the values that the two exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.errors import CheckpointError, ConfigError
from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.episodes.event_index import EventIndex


@dataclass(frozen=True)
class TaskPool:
    """Training entities, in ascending order, that a curriculum draws from.

    `tasks` entities are drawn in each of `steps` rounds; `index` holds their rows, for a curriculum that looks within
    tasks. Raises ConfigError without an entity.
    """

    entities: IntArray
    tasks: int = 1
    steps: int = 1
    index: EventIndex | None = None

    def __post_init__(self) -> None:
        if not len(self.entities):
            raise ConfigError("there is no entity to train on; prepare a data set with more rows each")
        object.__setattr__(self, "entities", np.sort(np.asarray(self.entities, np.int64)))

    def __len__(self) -> int:
        return len(self.entities)

    @property
    def epoch(self) -> int:
        """Rounds in which every entity can be drawn once."""
        return max(1, -(-len(self) // self.tasks))

    def at(self, positions: Tensor) -> IntArray:
        """Entities at some positions of the pool, [T] int64."""
        entities: IntArray = self.entities[positions.numpy()]
        return entities

    def positions(self, entities: IntArray) -> Tensor:
        """Positions of entities in the pool, [T] int64."""
        return torch.from_numpy(np.searchsorted(self.entities, np.asarray(entities, np.int64)))


@dataclass(frozen=True)
class TaskDraw:
    """Entities of a meta-batch [T], the stage of the curriculum that drew each, and the preferred query rows.

    prefer [N] bool marks rows of the index that come first in the query, where the curriculum looks within tasks.
    """

    entities: IntArray
    stage: tuple[str, ...]
    prefer: Tensor | None = None


@dataclass(frozen=True)
class TaskFeedback:
    """Hardness of a meta-batch, measured on the query after adapting.

    entities [T]; hardness [T], NaN for a task without a measured row; error, mask and position [T, Q]: error of each
    query row, the rows that have one, and their positions in the index (None where rows have no positions).
    """

    entities: IntArray
    hardness: FloatArray
    error: Tensor
    mask: Tensor
    position: Tensor | None = None


class Curriculum(Protocol):
    """Sampler of the entities of each meta-batch from a pool."""

    @property
    def needs_feedback(self) -> bool:
        """True if `update` must follow each meta-batch."""

    @property
    def needs_difficulty(self) -> bool:
        """True as long as `set_difficulty` must precede `sample`."""

    def sample(self, tasks: int, generator: torch.Generator, allowed: Tensor | None = None) -> TaskDraw:
        """Draw the next meta-batch of `tasks` entities; all random numbers come from the generator.

        `allowed` [n] bool restricts the draw to some positions of the pool, at least one.
        """

    def update(self, feedback: TaskFeedback) -> None:
        """Take in the hardness of the last meta-batch."""

    def set_difficulty(self, difficulty: FloatArray) -> None:
        """Take in the difficulty [n] of each task of the pool; higher is harder, NaN counts as hardest."""

    def report(self) -> Mapping[str, float]:
        """Values for the log, by name."""

    def state(self) -> dict[str, Tensor]:
        """State as tensors, for a checkpoint."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`, bit for bit. Raises CheckpointError if it is of another pool."""


def require_share(name: str, value: float, *, zero: bool = True) -> float:
    """Check a share from 0 (or just above it) to 1. Raises ConfigError otherwise."""
    if not (0 <= value <= 1) or (value == 0 and not zero):
        raise ConfigError(f"curriculum.config.{name} must be a share {'from' if zero else 'above'} 0 to 1, got {value}")
    return float(value)


def require_count(name: str, value: int) -> int:
    """Check a whole number of at least 0. Raises ConfigError otherwise."""
    if int(value) != value or value < 0:
        raise ConfigError(f"curriculum.config.{name} must be a whole number from 0, got {value}")
    return int(value)


def copy_task_values(values: Tensor, current: Tensor) -> Tensor:
    """Copy a checkpoint's values of each task. Raises CheckpointError if their number is not that of `current`."""
    if values.shape != current.shape:
        raise CheckpointError(
            f"the checkpoint's curriculum has {len(values)} entities, this run has {len(current)}; "
            "resume with the data set and seed it was started with"
        )
    return values.clone()


def unwrap_state(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Part of a wrapper's state that belongs to the wrapped curriculum."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def wrap_state(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """State of a wrapped curriculum under a prefix, as a part of its wrapper's."""
    return {f"{prefix}{k}": v for k, v in state.items()}
