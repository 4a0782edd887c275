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

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.types import Params, State, TaskBatch
from recsys_meta.models.learners.maml.gradient_learner import GradientLearner
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig
from recsys_meta.models.protocols import PredictorConfig


class ReptileSettings(PredictorConfig):
    """Settings of the method."""

    steps: int = Field(default=3, ge=1)


class ReptileConfig(ReptileSettings, MamlConfig):
    """Configuration of `Reptile`."""


class ReptileMethod(GradientLearner):
    """The method that this module describes, for any network."""

    def is_frozen(self, key: str) -> bool:
        return super().is_frozen(key) or key.startswith("rate.")

    def task_losses(self, body: Params, batch: TaskBatch) -> tuple[Tensor, State]:
        still = {k: v.detach() for k, v in body.items()}
        start = self.start_state(body, batch.support)
        state = self.adapt(still, batch.support)
        end = self.descend(still, state, self.query_rows(batch))
        pairs = self.adapted_pairs(body, start, end)
        distances = [(p - q.detach()).square().flatten(1).sum(1) for p, q in pairs]
        losses = self.query_loss(*self.with_constant_steps(body, start, state), batch)
        return losses + torch.stack(distances).sum(0) / 2, state


@dataclass(frozen=True)
class Reptile(ReptileMethod, Maml):
    """The learner that this module describes."""

    config: ReptileConfig = field(default_factory=ReptileConfig)
    name: ClassVar[str] = "reptile"
    Config: ClassVar[type[MamlConfig]] = ReptileConfig
