"""iMAML (Rajeswaran et al. 2019), MAML with implicit gradients: the outer gradient knows where the inner loop ends, not
how it got there.

    q = argmin L(S; q) + l/2 |q - p|^2,    dL(Q)/dp = (I + H/l)^-1 grad L(Q; q),    H the Hessian of L(S) at q

The inner problem is solved by gradient descent without a graph, so memory does not depend on the number of steps, and
(H + l I) v = grad L(Q; q) by a few conjugate gradients. The strength l of the proximal term is learned. All other
parameters get what the implicit function theorem says of them: at q the gradient of the inner problem is 0 whatever
they are. That holds for a solved problem only: with too few steps the gradient is biased.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.autograd import Function

from recsys_meta.core.types import Interactions, Params, State, Support
from recsys_meta.models.learners.maml.gradient_learner import GradientLearner, is_recorded
from recsys_meta.models.learners.maml.inner_step import InnerStep
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig
from recsys_meta.models.learners.maml.perceptron import ENTITY, ITEM
from recsys_meta.models.protocols import PredictorConfig

Product = Callable[[Tensor], Tensor]
"""Product of a matrix for each task with vectors [T, P]."""


LAYERS = {f"{ENTITY}.weight": "first.entity", f"{ENTITY}.bias": "head.0.bias", f"{ITEM}.weight": "first.item"}
"""Names in a body of the leaves of a state's first layer; those of the others have one name in both."""


class ImplicitMamlSettings(PredictorConfig):
    """Settings of the method."""

    steps: int = Field(default=16, ge=1)
    strength: float = Field(default=0.3, gt=0, description="proximal term at the start; it is learned")
    solver_steps: int = Field(default=5, ge=1, description="conjugate gradients of an outer gradient")


class ImplicitMamlConfig(ImplicitMamlSettings, MamlConfig):
    """Configuration of `ImplicitMaml`."""


class ImplicitMamlMethod(GradientLearner):
    """The method that this module describes, for any network."""

    def init_rates(self, params: Params) -> Params:
        return super().init_rates(params) | {"log_strength": torch.tensor(math.log(self.config.strength))}

    def is_frozen(self, key: str) -> bool:
        return super().is_frozen(key) or key.startswith("rate.")  # at the optimum no rate has an influence

    def inner_step(self, body: Params, rates: Mapping[str, Tensor]) -> InnerStep:
        share = 1 - next(iter(rates.values())) * body["log_strength"].exp()
        return super().inner_step(body, rates)._replace(keep=share.clamp(min=0))

    def adapt(self, body: Params, support: Support) -> State:
        still = {k: v.detach() for k, v in body.items()}
        with torch.no_grad():
            state = super().adapt(still, support)
            own = self.own_leaves(still, state)  # an outer gradient needs the weights themselves
            state = {k: v for k, v in (state | own).items() if not k.endswith((".inputs", ".deltas"))}
        if not is_recorded(body):
            return state
        start, rows = self.start_state(body, support), self.inner_rows(support)
        own = {k: v for k, v in state.items() if k in own}
        end = self._attached(body, start, own, rows) if rows.item.shape[1] else start
        return {k: end[k] for k in state if k in end}

    def _attached(self, body: Params, start: State, end: State, rows: Interactions) -> State:
        """State with the values `end` of what adapts, and the implicit gradient."""
        still = [{k: v.detach() for k, v in tensors.items()} for tensors in (body, start)]
        sizes = [v[0].numel() for v in end.values()]
        point = torch.cat([v.flatten(1) for v in end.values()], 1).requires_grad_()

        def state_at(flat: Tensor, start: State) -> State:
            parts = zip(end.items(), torch.split(flat, sizes, 1), strict=True)
            return start | {k: part.view(v.shape) for (k, v), part in parts}

        def gradient(body: Params, start: State) -> Tensor:
            loss = self.inner_loss(body, state_at(point, start), rows).sum()
            return torch.autograd.grad(loss, point, create_graph=True)[0]

        values = body | start
        origin = [values[LAYERS.get(k, k)].expand(v.shape).flatten(1) for k, v in end.items()]
        strength, at_point = body["log_strength"].exp(), gradient(*still)

        def product(v: Tensor) -> Tensor:
            return torch.autograd.grad(at_point, point, v, retain_graph=True)[0] + strength.detach() * v

        residual = gradient(body, start) + strength * (point.detach() - torch.cat(origin, 1))
        step: Tensor = _ImplicitStep.apply(residual, product, self.config.solver_steps)  # type: ignore[no-untyped-call]
        return state_at(point.detach() + step, start)


@dataclass(frozen=True)
class ImplicitMaml(ImplicitMamlMethod, Maml):
    """The learner that this module describes."""

    config: ImplicitMamlConfig = field(default_factory=ImplicitMamlConfig)
    name: ClassVar[str] = "imaml"
    Config: ClassVar[type[MamlConfig]] = ImplicitMamlConfig


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
