"""Meta-regularization (Yin, Tucker, Zhou, Levine & Finn 2020): MAML whose shared item vectors are random, and pay for
what they know.

    e_i ~ N(mu_i, diag(s^2)) while training, mu_i for newcomers
    meta-loss + beta * mean over items and coordinates of KL(N(mu, s^2) | N(0, prior^2))

What no task adapts could hold the training tasks' answers, so that supports are not needed (memorization); noise
bounds what it can hold, and the divergence is the price of a bound that is less tight. What adapts (the entity's start,
layers, rates) pays nothing. This is the form on weights; mu and s are trained by the outer gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Params, State, TaskBatch
from recsys_meta.models.functional.regularization import standard_noise
from recsys_meta.models.learners.maml import scorer
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig


class MetaRegularizationConfig(MamlConfig):
    """Configuration of `MetaRegularization`."""

    beta: float = Field(default=1e-2, ge=0, description="price of a nat that a number of an item vector holds")
    prior: float = Field(default=1.0, gt=0, description="deviation of the prior of item vectors")
    spread: float = Field(default=0.1, gt=0, description="deviation of item vectors at the start; it is learned")


@dataclass(frozen=True)
class MetaRegularization(Maml):
    """The learner that this module describes."""

    config: MetaRegularizationConfig = field(default_factory=MetaRegularizationConfig)
    name: ClassVar[str] = "meta-regularization"
    Config: ClassVar[type[MamlConfig]] = MetaRegularizationConfig

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        params = super().init(data, entities, generator)
        width = scorer.item_vectors(self.config, params).shape[1]
        return params | {"log_spread": torch.full((width,), math.log(self.config.spread))}

    def _training_body(self, params: Params, generator: torch.Generator) -> Params:
        vectors = self.training_vectors(params, generator)
        noisy = vectors + params["log_spread"].exp() * standard_noise(vectors, generator)
        return self.make_body(params, noisy) | {"information": self.information(params)}

    def information(self, params: Params) -> Tensor:
        """Nats that a number of an item vector holds: mean divergence of its distribution from the prior."""
        ratio = (2 * params["log_spread"]).exp() / self.config.prior**2
        mean = scorer.item_vectors(self.config, params) / self.config.prior
        return 0.5 * (mean.square().mean(0) + ratio - 1 - ratio.log()).mean()

    def task_losses(self, body: Params, batch: TaskBatch) -> tuple[Tensor, State]:
        losses, state = super().task_losses(body, batch)
        return losses + self.config.beta * body["information"], state
