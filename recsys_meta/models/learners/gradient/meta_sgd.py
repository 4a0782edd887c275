"""Meta-SGD (Li et al. 2017): every number that adapts has a learned inner rate of its own.

    q = p - a * grad L(S; p),   a of the shape of p

So the rates are not only the length of a step but its direction. They are logarithms here and so stay positive: a step
along which the support's loss rises is not in what can be learned. Weight decay spares them.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch

from recsys_meta.core.types import Params
from recsys_meta.models.learners.maml.gradient_learner import GradientLearner
from recsys_meta.models.learners.maml.inner_step import InnerStep
from recsys_meta.models.learners.maml.maml import Maml


class MetaSgdMethod(GradientLearner):
    """The method that this module describes, for any network."""

    def init_rates(self, params: Params) -> Params:
        start = math.log(self.config.first_rate)
        return {f"rate.{part}": torch.full(shape, start) for part, shape in self.part_shapes(params).items()}

    def inner_steps(self, body: Params) -> list[InnerStep]:
        return [InnerStep({part: body[f"rate.{part}"].exp() for part in self.config.parts})] * self.config.steps


class MetaSgd(MetaSgdMethod, Maml):
    """The learner that this module describes."""

    name: ClassVar[str] = "meta-sgd"
