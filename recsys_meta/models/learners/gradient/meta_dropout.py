"""Meta-dropout (Lee, Nam, Yang & Hwang 2020): MAML whose inner loop sees perturbed item vectors, and learns how.

    m_i = 2 sigmoid(W e_i + b + s * eps_i),  eps_i ~ N(0, I) while training, 0 for newcomers
    q = p - a grad L(S; p, m * e),     meta-loss L(Q; q, e)

The step must lead to parameters that are right for clean rows although it saw disturbed ones, so that a support cannot
be known by heart; W, b and the spread s are trained by the outer gradient through the step (order 2). Where W and b are
0 newcomers adapt as in MAML. The original perturbs every layer of a network, and draws for newcomers too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Interactions, Params, State
from recsys_meta.models.functional.regularization import standard_noise
from recsys_meta.models.learners.maml import scorer
from recsys_meta.models.learners.maml.inner_step import InnerStep
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig


class MetaDropoutConfig(MamlConfig):
    """Configuration of `MetaDropout`."""

    order: Literal[2] = 2
    spread: float = Field(default=0.5, gt=0, description="spread of the noise at the start; it is learned")


@dataclass(frozen=True)
class MetaDropout(Maml):
    """The learner that this module describes."""

    config: MetaDropoutConfig = field(default_factory=MetaDropoutConfig)
    name: ClassVar[str] = "meta-dropout"
    Config: ClassVar[type[MamlConfig]] = MetaDropoutConfig

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        params = super().init(data, entities, generator)
        width = scorer.item_vectors(self.config, params).shape[1]
        params |= {"perturb.weight": torch.zeros(width, width), "perturb.bias": torch.zeros(width)}
        return params | {"log_spread": torch.full((width,), math.log(self.config.spread))}

    def body(self, params: Params) -> Params:
        vectors = scorer.item_vectors(self.config, params)
        return self._bodies(params, vectors, vectors * self.factors(params, vectors))

    def _training_body(self, params: Params, generator: torch.Generator) -> Params:
        vectors = self.training_vectors(params, generator)
        noise = standard_noise(vectors, generator)
        return self._bodies(params, vectors, vectors * self.factors(params, vectors, noise))

    def _bodies(self, params: Params, vectors: Tensor, inner: Tensor) -> Params:
        """Body of clean item vectors [C, V], with those that the inner loop sees under a name of their own."""
        return self.make_body(params, vectors) | {"inner.vectors": self.make_body(params, inner)["vectors"]}

    def factors(self, params: Params, vectors: Tensor, noise: Tensor | None = None) -> Tensor:
        """Factors [C, V] of item vectors in the inner loop, under noise [C, V]; without it those of newcomers."""
        level = vectors @ params["perturb.weight"] + params["perturb.bias"]
        return 2 * torch.sigmoid(level if noise is None else level + params["log_spread"].exp() * noise)

    def descend(
        self, body: Params, state: State, rows: Interactions, steps: Sequence[InnerStep] | None = None
    ) -> State:
        return super().descend(body | {"vectors": body["inner.vectors"]}, state, rows, steps)
