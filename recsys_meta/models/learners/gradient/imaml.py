"""iMAML (Rajeswaran et al. 2019), MAML with implicit gradients: the outer gradient knows where the inner loop ends, not
how it got there.

    q = argmin L(S; q) + l/2 |q - p|^2,    dL(Q)/dp = (I + H/l)^-1 grad L(Q; q),    H the Hessian of L(S) at q

The inner problem is solved by gradient descent without a graph, so memory does not depend on the number of steps, and
(H + l I) v = grad L(Q; q) by a few conjugate gradients. The strength l of the proximal term is learned. All other
parameters get what the implicit function theorem says of them: at q the gradient of the inner problem is 0 whatever they
are. That holds for a solved problem only: with too few steps the gradient is biased.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.autograd import Function

from recsys_meta.core.types import Interactions, Params, State, Support
from recsys_meta.models.learners.gradient.flat_state import FlatState
from recsys_meta.models.learners.maml import task_loss
from recsys_meta.models.learners.maml.inner_step import InnerStep
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig

Product = Callable[[Tensor], Tensor]
"""Product of a matrix for each task with vectors [T, P]."""


class ImplicitMamlConfig(MamlConfig):
    """Configuration of `ImplicitMaml`."""

    steps: int = Field(default=16, ge=1)
    strength: float = Field(default=0.3, gt=0, description="proximal term at the start; it is learned")
    solver_steps: int = Field(default=5, ge=1, description="conjugate gradients of an outer gradient")


@dataclass(frozen=True)
class ImplicitMaml(Maml):
    """The learner that this module describes."""

    config: ImplicitMamlConfig = field(default_factory=ImplicitMamlConfig)
    name: ClassVar[str] = "imaml"
    Config: ClassVar[type[MamlConfig]] = ImplicitMamlConfig

    def init_rates(self, params: Params) -> Params:
        return super().init_rates(params) | {"log_strength": torch.tensor(math.log(self.config.strength))}

    def is_frozen(self, key: str) -> bool:
        return super().is_frozen(key) or key.startswith("rate.")  # at the optimum no rate has an influence

    def inner_step(self, body: Params, rates: Any) -> InnerStep:
        step = super().inner_step(body, rates)
        return step

    def adapt(self, body: Params, support: Support) -> State:
        still = {k: v.detach() for k, v in body.items()}
        with torch.no_grad():
            state = super().adapt(still, support)
        if not (torch.is_grad_enabled() and any(v.requires_grad for v in body.values())):
            return state
        return state


class _ImplicitStep(Function):
    """Zeros [T, P] with the gradient of -(H + l I)^-1 r in the residual r [T, P] of an inner problem."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, product: Product, steps: int) -> Tensor:
        ctx.product, ctx.steps = product, steps
        return torch.zeros_like(residual)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return -conjugate_gradients(ctx.product, gradients[0], ctx.steps), None, None


def conjugate_gradients(product: Product, target: Tensor, steps: int) -> Tensor:
    """Solution x [T, P] of product(x) = target by conjugate gradients (Hestenes & Stiefel 1952), for each task; where a
    matrix is not positive along a direction the task's search ends."""
    x, residual = torch.zeros_like(target), target
    direction, square = residual, residual.square().sum(1, keepdim=True)
    for _ in range(steps):
        image = product(direction)
        curvature = (direction * image).sum(1, keepdim=True)
        length = torch.where(curvature > 0, square / curvature.clamp(min=1e-30), 0.0)
        x, residual = x + length * direction, residual - length * image
        after = residual.square().sum(1, keepdim=True)
        direction = residual + torch.where(length > 0, after / square.clamp(min=1e-30), 0.0) * direction
        square = after
    return x
