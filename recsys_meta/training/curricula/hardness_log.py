"""What a curriculum did, in buckets: how hard, and how much of each meta-batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import FloatArray
from recsys_meta.training.curricula.base import TaskDraw, TaskFeedback, TaskPool, copy_task_values

DECILES = 10


@dataclass(frozen=True)
class HardnessBucket:
    """Some tasks of a meta-batch: mean hardness (NaN where it is not known), and the share of the batch they were."""

    name: str
    hardness: float
    weight: float


class HardnessLog:
    """Keeps the hardness last seen of every task, and says of each meta-batch from where it was drawn."""

    def __init__(self, pool: TaskPool) -> None:
        self._pool = pool
        self._hardness = torch.full((len(pool),), torch.nan, dtype=torch.float64)

    def record(self, draw: TaskDraw, lesson: TaskFeedback) -> tuple[HardnessBucket, ...]:
        """Buckets of one meta-batch: its stages, and the deciles of the hardness of all tasks met so far.

        The last decile is the hardest. A decile is there though nothing was drawn from it, so that one sees which
        tasks are left alone; its hardness is that of all its tasks, a stage's that of this batch.
        """
        places = self._pool.places(lesson.entities)
        known = np.isfinite(lesson.hardness)
        self._hardness[places[torch.from_numpy(known)]] = torch.from_numpy(lesson.hardness[known]).double()
        hardness = self._hardness.numpy()
        met = np.flatnonzero(np.isfinite(hardness))
        bins = min(DECILES, len(met))
        decile = np.full(len(hardness), -1)
        decile[met[np.argsort(hardness[met], kind="stable")]] = np.arange(len(met)) * bins // max(len(met), 1)
        drawn = decile[places.numpy()]
        deciles = [
            HardnessBucket(
                f"decile {round((d + 1) * DECILES / bins):02d}",
                _mean(hardness[decile == d]),
                float((drawn == d).mean()),
            )
            for d in range(bins)
        ]
        stage = np.array(draw.stage)
        stages = [
            HardnessBucket(f"stage {name}", _mean(lesson.hardness[stage == name]), float((stage == name).mean()))
            for name in sorted(set(draw.stage))
        ]
        return (*stages, *deciles)

    def state(self) -> dict[str, Tensor]:
        """All it remembers, as tensors."""
        return {"hardness": self._hardness.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`. Raises CheckpointError when it belongs to another pool."""
        self._hardness = copy_task_values(state["hardness"], self._hardness)


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
