"""MAML++ (Antoniou et al. 2019): MAML with a loss on every step, and a rate for each layer and step.

    L = sum over steps k of w_k L(Q; q_k),   q_k = q_(k-1) - a_k * grad L(S; q_(k-1))

Early in training every step counts alike, which keeps gradients through many steps in bounds; the weights move to the
last step while the first `multi_step_share` of training passes, and for the first `first_order_share` of it gradients
are of first order. Its batch normalisation by step has no counterpart here; its cosine is `train.schedule`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.types import Params, State, TaskBatch
from recsys_meta.models.learners.maml.gradient_learner import GradientLearner
from recsys_meta.models.learners.maml.inner_step import InnerStep
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig
from recsys_meta.models.protocols import PredictorConfig


class MamlPlusPlusSettings(PredictorConfig):
    """Settings of the method."""

    steps: int = Field(default=3, ge=1)
    multi_step_share: float = Field(default=0.3, ge=0, le=1, description="share of training with a loss on every step")
    first_order_share: float = Field(default=0.0, ge=0, le=1, description="share of training in first order, at first")


class MamlPlusPlusConfig(MamlPlusPlusSettings, MamlConfig):
    """Configuration of `MamlPlusPlus`."""


class MamlPlusPlusMethod(GradientLearner):
    """The method that this module describes, for any network; `progress` is the share of training that is over."""

    progress: float

    def at_progress(self, progress: float) -> Self:
        """The learner at a share of training: what it anneals is as it is then."""
        order = 1 if progress < self.config.first_order_share else self.config.order
        config = self.config.model_copy(update={"order": order})
        return type(self)(config, progress)  # type: ignore[call-arg]

    def init_rates(self, params: Params) -> Params:
        start = torch.full((self.config.steps,), math.log(self.config.first_rate))
        return {f"rate.{name}": start.clone() for name in self._rate_names}

    @property
    def _rate_names(self) -> tuple[str, ...]:
        return (*self.config.parts, "level") if "level" in self.config.rates else self.config.parts

    def inner_steps(self, body: Params) -> list[InnerStep]:
        rates = {name: body[f"rate.{name}"].exp() for name in self._rate_names}
        return [self.inner_step(body, {k: v[i] for k, v in rates.items()}) for i in range(self.config.steps)]

    def task_losses(self, body: Params, batch: TaskBatch) -> tuple[Tensor, State]:
        share = self.config.multi_step_share
        weight = max(0.0, 1 - self.progress / share) / self.config.steps if share else 0.0
        if not weight:
            return super().task_losses(body, batch)
        state, losses = self.start_state(body, batch.support), batch.support.rows.label.new_zeros(batch.support.size)
        rows = self.inner_rows(batch.support)
        last = 1 - weight * (self.config.steps - 1)
        for step in (steps := self.inner_steps(body)):
            state = self.descend(body, state, rows, [step])
            losses = losses + (last if step is steps[-1] else weight) * self.query_loss(body, state, batch)
        return losses, self.final_state(state, batch.support)


@dataclass(frozen=True)
class MamlPlusPlus(MamlPlusPlusMethod, Maml):
    """The learner that this module describes."""

    config: MamlPlusPlusConfig = field(default_factory=MamlPlusPlusConfig)
    progress: float = 1.0
    name: ClassVar[str] = "maml-pp"
    Config: ClassVar[type[MamlConfig]] = MamlPlusPlusConfig
