"""CAVIA (Zintgraf et al. 2019), "fast context adaptation": a small vector adapts, all else is shared.

    c_T = 0 - a grad_c L(S; c, p)

The context c is an input beside the entity's own vector and starts at 0. Under a dot product it meets an item by a
learned projection, z . e_i + c . P e_i; in a perceptron it is K more inputs of the first layer. What an entity keeps is
K numbers, and the outer loop has K directions to shape instead of all of z.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Params, State, Support
from recsys_meta.models.learners.maml.gradient_learner import GradientLearner
from recsys_meta.models.learners.maml.inner_step import InnerStep
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig
from recsys_meta.models.protocols import PredictorConfig


class CaviaSettings(PredictorConfig):
    """Settings of the method."""

    context: int = Field(default=16, ge=1, description="length of the context")

    @property
    def rates(self) -> tuple[str, ...]:
        return ("context",)


class CaviaConfig(CaviaSettings, MamlConfig):
    """Configuration of `Cavia`."""

    adapts: Literal["entity"] = "entity"


class CaviaMethod(GradientLearner):
    """The method that this module describes, for any network whose vector of an entity enters a perceptron."""

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        params = super().init(data, entities, generator)
        shape, scale = self.context_shape(params)
        return params | {"context": torch.randn(shape, generator=generator) * scale}

    def context_shape(self, params: Params) -> tuple[tuple[int, int], float]:
        """Shape and deviation of the context's weights."""
        return (self.config.context, self.config.hidden[0]), (2 / len(params["head.0.weight"])) ** 0.5

    def with_context(self, body: Params) -> Params:
        """Body in which the context is more inputs of the first layer."""
        return body | {"first.entity": torch.cat([body["first.entity"], body["context"]])}

    def start_state(self, body: Params, support: Support) -> State:
        state = super().start_state(body, support)
        return state | {"z": functional.pad(state["z"], (0, self.config.context))}

    def inner_steps(self, body: Params) -> list[InnerStep]:
        count = self.config.context
        inputs = len(body["first.entity"]) if "first.entity" in body else body["vectors"].shape[1]
        rate = functional.pad(body["rate.context"].exp().expand(count), (inputs - count, 0))
        return [InnerStep({"entity": rate})] * self.config.steps


@dataclass(frozen=True)
class Cavia(CaviaMethod, Maml):
    """The learner that this module describes."""

    config: CaviaConfig = field(default_factory=CaviaConfig)
    name: ClassVar[str] = "cavia"
    Config: ClassVar[type[MamlConfig]] = CaviaConfig

    def context_shape(self, params: Params) -> tuple[tuple[int, int], float]:
        if self.config.hidden:
            return super().context_shape(params)
        width = self.config.dims + self.config.constant
        return (width, self.config.context), width**-0.5

    def make_body(self, params: Params, vectors: Tensor) -> Params:
        body = super().make_body(params, vectors)
        if self.config.hidden:
            return self.with_context(body)
        return body | {"vectors": torch.cat([body["vectors"], body["vectors"] @ body["context"]], 1)}
