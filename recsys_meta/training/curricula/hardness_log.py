"""Log of a curriculum's draws in buckets: the hardness of each, and its share of the meta-batch."""

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
    """Tasks of one stage or decile: mean hardness (NaN if none was measured), and their share of the meta-batch."""

    name: str
    hardness: float
    weight: float


class HardnessLog:
    """Last measured hardness of every task, by which each meta-batch is sorted into buckets."""

    def __init__(self, pool: TaskPool) -> None:
        self._pool = pool
        self._hardness = torch.full((len(pool),), torch.nan, dtype=torch.float64)

    def record(self, draw: TaskDraw, feedback: TaskFeedback) -> tuple[HardnessBucket, ...]:
        """Return the buckets of one meta-batch: its stages, and the deciles of hardness of all tasks drawn so far.

        The last decile is the hardest. A decile is there even if nothing was drawn from it, which shows the tasks that
        the curriculum avoids; its hardness is that of all its tasks, a stage's that of this meta-batch.
        """
        positions = self._pool.positions(feedback.entities)
        finite = np.isfinite(feedback.hardness)
        self._hardness[positions[torch.from_numpy(finite)]] = torch.from_numpy(feedback.hardness[finite]).double()
        hardness = self._hardness.numpy()
        observed_tasks = np.flatnonzero(np.isfinite(hardness))
        bins = min(DECILES, len(observed_tasks))
        decile = np.full(len(hardness), -1)
        decile[observed_tasks[np.argsort(hardness[observed_tasks], kind="stable")]] = (
            np.arange(len(observed_tasks)) * bins // max(len(observed_tasks), 1)
        )
        batch_decile = decile[positions.numpy()]
        deciles = [
            HardnessBucket(
                f"decile {round((d + 1) * DECILES / bins):02d}",
                _mean(hardness[decile == d]),
                float((batch_decile == d).mean()),
            )
            for d in range(bins)
        ]
        stage = np.array(draw.stage)
        stages = [
            HardnessBucket(f"stage {name}", _mean(feedback.hardness[stage == name]), float((stage == name).mean()))
            for name in sorted(set(draw.stage))
        ]
        return (*stages, *deciles)

    def state(self) -> dict[str, Tensor]:
        """State as tensors, for a checkpoint."""
        return {"hardness": self._hardness.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`. Raises CheckpointError if it is of another pool."""
        self._hardness = copy_task_values(state["hardness"], self._hardness)


def _mean(values: FloatArray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
