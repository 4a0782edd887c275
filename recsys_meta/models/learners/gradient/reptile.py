"""Reptile (Nichol, Achiam & Schulman 2018): the shared start moves toward where a task's own steps end.

    p <- p + e mean over tasks of (q - p)

q is p after k steps of gradient descent on the task; no gradient goes through them. The steps see the support first and
then, in training, the query, as two mini-batches: what the difference of weights has to say beyond joint training is
how the gradients of different rows agree, so that a single batch or a single step carries nothing.

Here -(q - p) is the gradient that the outer optimiser gets, of a loss that is half the squared distance. A meta-batch
of one task is the serial form, of more the batch form, whose mean is a plain one with `size_weight` 0. What no task
adapts (item vectors, unless "all" adapt, and item biases) follows the gradient of the query's loss after the steps on
the support: after those on the query it would learn to fit rows that the task has met. Inner rates get no gradient and
stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.types import Params, State, TaskBatch
from recsys_meta.models.functional.task_layers import OwnLayer
from recsys_meta.models.learners.maml import task_loss
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig
from recsys_meta.models.learners.maml.perceptron import perceptron_of


class ReptileConfig(MamlConfig):
    """Configuration of `Reptile`."""

    steps: int = Field(default=3, ge=1)


@dataclass(frozen=True)
class Reptile(Maml):
    """The learner that this module describes."""

    config: ReptileConfig = field(default_factory=ReptileConfig)
    name: ClassVar[str] = "reptile"
    Config: ClassVar[type[MamlConfig]] = ReptileConfig

    def is_frozen(self, key: str) -> bool:
        return super().is_frozen(key) or key.startswith("rate.")

    def task_losses(self, body: Params, batch: TaskBatch) -> tuple[Tensor, State]:
        still = {k: v.detach() for k, v in body.items()}
        start = self.start_state(body, batch.support)
        state = self.adapt(still, batch.support)
        end = self.descend(still, state, task_loss.informative_rows(self.config, batch.query))
        distances = [(p - q.detach()).square().flatten(1).sum(1) for p, q in self._pairs(body, start, end)]
        adapted = state if "entity" in self.config.parts else state | {"z": start["z"]}
        losses = self.query_loss(body | self._own_part(still), adapted, batch)
        return losses + torch.stack(distances).sum(0) / 2, state

    def _pairs(self, body: Params, start: State, end: State) -> Iterator[tuple[Tensor, Tensor]]:
        """Shared and task's value [T, ...] of all that adapts; a value that all tasks share has no leading T."""
        if "entity" in self.config.parts:
            yield start["z"], end["z"]
        if "rows" in self.config.parts:
            vectors = functional.embedding(end["rows.item"], body["vectors"])
            yield vectors, vectors + end["rows.change"]
        if "head" in self.config.groups:
            start_layers, end_layers = perceptron_of(body, {}), perceptron_of(body, end).spell_out()
            for p, q in zip(start_layers.layers, end_layers.layers, strict=True):
                if isinstance(q, OwnLayer):
                    yield p.weight, q.weight
                    yield from [(p.bias, q.bias)] if p.bias is not None and q.bias is not None else []

    def _own_part(self, still: Params) -> Params:
        """The part of the body that tasks adapt, as constants."""
        names = {"head": ("head.", "first."), "rows": ("vectors",)}
        own = tuple(name for group in self.config.groups for name in names.get(group, ()))
        return {k: v for k, v in still.items() if k.startswith(own)}
