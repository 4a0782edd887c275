"""Uniform task sampling: every entity once an epoch, in a fresh random order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from recsys_meta.errors import CheckpointError, ConfigError
from recsys_meta.types import IntArray


class Uniform:
    """Draws entities without replacement; a batch may end one epoch and begin the next.

    Where it stands is all in `state`, so that a resumed run draws what the first would have drawn.
    """

    name = "uniform"

    def __init__(self, entities: IntArray) -> None:
        if not len(entities):
            raise ConfigError("there is no entity to train on; prepare a data set with more rows each")
        self._entities = torch.from_numpy(np.sort(np.asarray(entities, np.int64)))
        self._order = torch.arange(len(entities))
        self._next = len(entities)
        self._drawn = 0

    def sample(self, tasks: int, generator: torch.Generator) -> IntArray:
        """The next `tasks` entities, [tasks] int64."""
        parts: list[Tensor] = []
        missing = tasks
        while missing > 0:
            if self._next == len(self._order):
                n, device = len(self._order), generator.device
                self._order = torch.randperm(n, generator=generator, device=device).cpu()
                self._next = 0
            part = self._order[self._next : self._next + missing]
            self._next += len(part)
            missing -= len(part)
            parts.append(part)
        self._drawn += tasks
        return self._entities[torch.cat(parts)].numpy() if parts else np.empty(0, np.int64)

    def report(self) -> Mapping[str, float]:
        """Tasks drawn so far, and how many times that is the whole pool."""
        return {"drawn": float(self._drawn), "epochs": self._drawn / len(self._entities)}

    def state(self) -> dict[str, Tensor]:
        """Where it stands, as tensors."""
        return {"order": self._order.clone(), "position": torch.tensor([self._next, self._drawn])}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`. Raises CheckpointError when it belongs to another set of entities."""
        order = state["order"]
        if order.shape != self._order.shape:
            raise CheckpointError(
                f"the checkpoint's curriculum has {len(order)} entities, this run has {len(self._order)}; "
                "resume with the data set and seed it was started with"
            )
        self._order = order.clone()
        self._next, self._drawn = (int(v) for v in state["position"])
