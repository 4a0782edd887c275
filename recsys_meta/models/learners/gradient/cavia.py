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
from recsys_meta.models.learners.maml.inner_step import InnerStep
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig


class CaviaConfig(MamlConfig):
    """Configuration of `Cavia`."""

    adapts: Literal["entity"] = "entity"
    context: int = Field(default=16, ge=1, description="length of the context")

    @property
    def rates(self) -> tuple[str, ...]:
        return ("context",)


@dataclass(frozen=True)
class Cavia(Maml):
    """The learner that this module describes."""

    config: CaviaConfig = field(default_factory=CaviaConfig)
    name: ClassVar[str] = "cavia"
    Config: ClassVar[type[MamlConfig]] = CaviaConfig

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        params = super().init(data, entities, generator)
        config = self.config
        if config.hidden:
            shape, scale = (config.context, config.hidden[0]), (2 / len(params["head.0.weight"])) ** 0.5
        else:
            width = config.dims + config.constant
            shape, scale = (width, config.context), width**-0.5
        return params | {"context": torch.randn(shape, generator=generator) * scale}

    def make_body(self, params: Params, vectors: Tensor) -> Params:
        body = super().make_body(params, vectors)
        if self.config.hidden:
            return body | {"first.entity": torch.cat([body["first.entity"], body["context"]])}
        return body | {"vectors": torch.cat([body["vectors"], body["vectors"] @ body["context"]], 1)}

    def start_state(self, body: Params, support: Support) -> State:
        return {"z": functional.pad(super().start_state(body, support)["z"], (0, self.config.context))}

    def inner_steps(self, body: Params) -> list[InnerStep]:
        count = self.config.context
        inputs = len(body["first.entity"]) if self.config.hidden else body["vectors"].shape[1]
        rate = functional.pad(body["rate.context"].exp().expand(count), (inputs - count, 0))
        return [InnerStep({"entity": rate})] * self.config.steps
