"""What training asks of a curriculum, and the words they exchange."""

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
    """What a curriculum chooses from: the training entities, in ascending order.

    `tasks` are drawn in each of `steps` rounds; `index` has the rows behind the entities, for what looks within them.
    Raises ConfigError for no entity.
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
        """Rounds in which every entity could be met once."""
        return max(1, -(-len(self) // self.tasks))

    def at(self, places: Tensor) -> IntArray:
        """The entities at some places of the pool."""
        found: IntArray = self.entities[places.numpy()]
        return found

    def places(self, entities: IntArray) -> Tensor:
        """Where entities stand in the pool, [T] int64."""
        return torch.from_numpy(np.searchsorted(self.entities, np.asarray(entities, np.int64)))


@dataclass(frozen=True)
class TaskDraw:
    """Entities of a meta-batch [T], why each is in it (its stage, a word), and which rows [N] bool of the index are
    to be asked about first, where the curriculum looks within tasks."""

    entities: IntArray
    stage: tuple[str, ...]
    prefer: Tensor | None = None


@dataclass(frozen=True)
class TaskFeedback:
    """How hard a meta-batch was, judged on the query after adapting.

    entities [T]; hardness [T], NaN where nothing was asked; error, position and mask [T, Q]: the error of each query
    row, and which row of the index it is (None where rows have no positions).
    """

    entities: IntArray
    hardness: FloatArray
    error: Tensor
    mask: Tensor
    position: Tensor | None = None


class Curriculum(Protocol):
    """Chooses the entities of each meta-batch, from those of its pool."""

    @property
    def needs_feedback(self) -> bool:
        """Whether it must be told how hard each meta-batch was."""

    @property
    def needs_difficulty(self) -> bool:
        """Whether it must yet be given the difficulty of every task before it can choose."""

    def sample(self, tasks: int, generator: torch.Generator, allowed: Tensor | None = None) -> TaskDraw:
        """The next meta-batch of `tasks` entities; all chance comes from the generator. `allowed` [n] bool restricts
        the choice to some places of the pool (one at least)."""

    def update(self, lesson: TaskFeedback) -> None:
        """Hear how hard the last meta-batch was."""

    def set_difficulty(self, difficulty: FloatArray) -> None:
        """Hear how difficult each task of the pool is, [n]; higher is harder, NaN counts as hardest."""

    def report(self) -> Mapping[str, float]:
        """Figures worth logging."""

    def state(self) -> dict[str, Tensor]:
        """All it remembers, as tensors."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`, bit for bit. Raises CheckpointError when it belongs to another pool."""


def require_share(name: str, value: float, *, zero: bool = True) -> float:
    """A share from 0 (or just above it) to 1. Raises ConfigError otherwise."""
    if not (0 <= value <= 1) or (value == 0 and not zero):
        raise ConfigError(f"curriculum.config.{name} must be a share {'from' if zero else 'above'} 0 to 1, got {value}")
    return float(value)


def require_count(name: str, value: int) -> int:
    """A whole number of at least 0. Raises ConfigError otherwise."""
    if int(value) != value or value < 0:
        raise ConfigError(f"curriculum.config.{name} must be a whole number from 0, got {value}")
    return int(value)


def copy_task_values(kept: Tensor, now: Tensor) -> Tensor:
    """A copy of what a checkpoint kept for each task. Raises CheckpointError when there are not as many."""
    if kept.shape != now.shape:
        raise CheckpointError(
            f"the checkpoint's curriculum has {len(kept)} entities, this run has {len(now)}; "
            "resume with the data set and seed it was started with"
        )
    return kept.clone()


def unwrap_state(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The part of a state that a wrapped curriculum owns."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def wrap_state(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The state of a wrapped curriculum, as a part of its wrapper's."""
    return {f"{prefix}{k}": v for k, v in state.items()}
