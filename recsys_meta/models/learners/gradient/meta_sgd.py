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
from recsys_meta.models.learners.maml.inner_step import InnerStep
from recsys_meta.models.learners.maml.maml import Maml


class MetaSgd(Maml):
    """The learner that this module describes."""

    name: ClassVar[str] = "meta-sgd"

    def init_rates(self, params: Params) -> Params:
        body, start = self.body(params), math.log(self.config.first_rate)
        width = body["vectors"].shape[1]
        shapes: dict[str, tuple[int, ...]]
        shapes = {"rows": (width,), "entity": (len(body["first.entity"]) if self.config.hidden else width,)}
        for part in self.config.parts:
            if part.startswith("head."):
                fan_in, fan_out = params[f"{part}.weight"].shape
                shapes[part] = (fan_in + 1, fan_out)  # the bias last
        return {f"rate.{part}": torch.full(shapes[part], start) for part in self.config.parts}

    def inner_steps(self, body: Params) -> list[InnerStep]:
        return [InnerStep({part: body[f"rate.{part}"].exp() for part in self.config.parts})] * self.config.steps
