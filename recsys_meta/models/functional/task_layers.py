"""Linear layers that T tasks adapt by steps of gradient descent, without a copy of the weights for each task.

A step of rate a on rows X [N, in] with gradients G [N, out] in the outputs changes a layer by X' D, where D = -a G. So
a task's layer is the shared weight W and the pairs (X, D) of its steps, its *dual form*:

    x W_t + b_t = x W + b + (x X' + 1) D          g W_t' = g W' + (g D') X

which costs N (in + out) a row, where a copy costs in * out in every step. `LowRankLayer` is that form. For a task with
so many rows that its pairs are larger than the copy, N (in + out) > in * out, the layer is spelt out (`OwnLayer`). Both
are equal up to rounding, and gradients of any order pass through both, since they are plain products.

R rows; `delta` is always D, the gradient times minus the rate. What else is to multiply a step is its `rate`, a number
or, where each weight has a rate of its own, [in, out], with one more row for the bias of a layer that has one. Such a
step is no product of a few rows, so that layer is spelt out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from recsys_meta.core.types import State
from recsys_meta.models.functional.batched_products import add_column_products, products, row_products


class TaskLayer(Protocol):
    """A layer of T tasks; its weight, shared [in, out] or of each task [T, in, out], and bias."""

    @property
    def weight(self) -> Tensor: ...

    @property
    def bias(self) -> Tensor | None: ...

    def apply(self, x: Tensor) -> Tensor:
        """Outputs [T, R, out] of inputs [T, R, in] or, the same for all tasks, [R, in]; without a step [R, out]."""

    def backward(self, gradient: Tensor) -> Tensor:
        """Gradient [T, R, in] in the inputs, from that in the outputs [T, R, out]."""

    def step(self, x: Tensor, delta: Tensor, rate: Tensor | None = None) -> TaskLayer:
        """Layer after a step on inputs x, [T, R, in] or [R, in], with delta [T, R, out]; the rate of a dual form is a
        number."""

    def keep(self, share: Tensor) -> TaskLayer:
        """Layer that keeps this share of what the steps changed."""

    def leaves(self) -> State:
        """Tensors particular to a task: name -> tensor with a leading T."""

    def change(self) -> Tensor:
        """Squared length [T] of what the steps changed, [1] without a step."""


@dataclass(frozen=True)
class SharedLayer:
    """Layer that no task adapts: weight [in, out] and bias [out] or None. A step leaves it as it is."""

    weight: Tensor
    bias: Tensor | None = None

    def apply(self, x: Tensor) -> Tensor:
        product = x @ self.weight
        return product if self.bias is None else product + self.bias

    def backward(self, gradient: Tensor) -> Tensor:
        return gradient @ self.weight.T

    def step(self, x: Tensor, delta: Tensor, rate: Tensor | None = None) -> TaskLayer:
        return self

    def keep(self, share: Tensor) -> TaskLayer:
        return self

    def leaves(self) -> State:
        return {}

    def change(self) -> Tensor:
        return self.weight.new_zeros(1)


@dataclass(frozen=True)
class FreshLayer(SharedLayer):
    """Layer of T = `tasks` tasks before their first step, which makes it one of the two forms."""

    tasks: int = 1
    is_dual: bool = True

    def step(self, x: Tensor, delta: Tensor, rate: Tensor | None = None) -> LowRankLayer | OwnLayer:
        x = x if x.dim() == 3 else x.expand(len(delta), *x.shape)
        if self.is_dual:
            return LowRankLayer(self.weight, self.bias, x, delta if rate is None else delta * rate)
        bias = None if self.bias is None else self.bias.expand(self.tasks, -1)
        return OwnLayer(self.weight, bias, SharedLayer(self.weight, self.bias)).step(x, delta, rate)

    def leaves(self) -> State:
        if self.is_dual:
            fan_in, fan_out = self.weight.shape
            return {
                "inputs": self.weight.new_zeros(self.tasks, 0, fan_in),
                "deltas": self.weight.new_zeros(self.tasks, 0, fan_out),
            }
        own = {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})
        return {k: v.expand(self.tasks, *v.shape) for k, v in own.items()}


@dataclass(frozen=True)
class LowRankLayer:
    """Layer in dual form: weight [in, out] and bias [out] or None are shared; inputs [T, N, in] and deltas [T, N, out]
    are those of the steps."""

    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    deltas: Tensor

    def apply(self, x: Tensor) -> Tensor:
        base = SharedLayer(self.weight, self.bias).apply(x)
        if not self.inputs.shape[1]:
            return base
        if x.dim() == 2:
            x, base = (v.expand(len(self.inputs), *v.shape) for v in (x, base))
        return torch.baddbmm(base, self.gram(x), self.deltas)

    def gram(self, x: Tensor) -> Tensor:
        """Products [T, R, N] of rows x [T, R, in] with the inputs of the steps, plus 1 where there is a bias."""
        gram = row_products(x, self.inputs)
        return gram if self.bias is None else gram + 1

    def backward(self, gradient: Tensor) -> Tensor:
        product = gradient @ self.weight.T
        if not self.inputs.shape[1]:
            return product
        return torch.baddbmm(product, row_products(gradient, self.deltas), self.inputs)

    def step(self, x: Tensor, delta: Tensor, rate: Tensor | None = None) -> Self:
        x = x if x.dim() == 3 else x.expand(len(delta), *x.shape)
        delta = delta if rate is None else delta * rate
        return type(self)(self.weight, self.bias, torch.cat([self.inputs, x], 1), torch.cat([self.deltas, delta], 1))

    def keep(self, share: Tensor) -> Self:
        return type(self)(self.weight, self.bias, self.inputs, self.deltas * share)

    def spell_out(self) -> OwnLayer:
        """Make a weight for each task."""
        origin = SharedLayer(self.weight, self.bias)
        weight = add_column_products(self.weight, self.inputs, self.deltas)
        return OwnLayer(weight, None if self.bias is None else self.bias + self.deltas.sum(1), origin)

    def leaves(self) -> State:
        return {"inputs": self.inputs, "deltas": self.deltas}

    def change(self) -> Tensor:
        return (self.gram(self.inputs) * row_products(self.deltas, self.deltas)).sum((1, 2))


@dataclass(frozen=True)
class OwnLayer:
    """Layer spelt out: weight [T, in, out] and bias [T, out] or None; `origin` is what it was before any step.

    Before the first step the weight may be the shared one [in, out].
    """

    weight: Tensor
    bias: Tensor | None
    origin: SharedLayer | None = None

    def apply(self, x: Tensor) -> Tensor:
        product = products(x, self.weight) if self.weight.dim() == x.dim() == 3 else x @ self.weight
        return product if self.bias is None else product + self.bias[:, None]

    def backward(self, gradient: Tensor) -> Tensor:
        return row_products(gradient, self.weight)

    def step(self, x: Tensor, delta: Tensor, rate: Tensor | None = None) -> Self:
        x = x if x.dim() == 3 else x.expand(len(delta), *x.shape)
        if rate is None or not rate.dim():
            delta = delta if rate is None else delta * rate
            bias = None if self.bias is None else self.bias + delta.sum(1)
            return type(self)(add_column_products(self.weight, x, delta), bias, self.origin)
        step = row_products(x.transpose(1, 2), delta.transpose(1, 2))
        bias = None if self.bias is None else self.bias + rate[-1] * delta.sum(1)
        return type(self)(self.weight + rate[: x.shape[2]] * step, bias, self.origin)

    def keep(self, share: Tensor) -> Self:
        assert self.origin is not None, "only a layer that knows its origin keeps a share of its change"
        weight, bias = self.origin.weight, self.origin.bias
        bias = self.bias if self.bias is None or bias is None else bias + (self.bias - bias) * share
        return type(self)(weight + (self.weight - weight) * share, bias, self.origin)

    def leaves(self) -> State:
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    def change(self) -> Tensor:
        assert self.origin is not None, "only a layer that knows its origin knows its change"
        change = (self.weight - self.origin.weight).square().sum((1, 2))
        if self.bias is None or self.origin.bias is None:
            return change
        return change + (self.bias - self.origin.bias).square().sum(1)


def is_dual_smaller(weight: Tensor, rows: int) -> bool:
    """True if the pairs of `rows` rows are no larger than a copy of the weight [in, out]: memory, and work by row."""
    fan_in, fan_out = weight.shape
    return rows * (fan_in + fan_out) <= fan_in * fan_out


def start_layer(
    weight: Tensor, bias: Tensor | None, tasks: int, rows: int, *, has_own_rates: bool = False
) -> FreshLayer:
    """Layer of T tasks before their first step, to be in the smaller form for `rows` rows of all their steps; spelt out
    where each weight has its own rate."""
    return FreshLayer(weight, bias, tasks, not has_own_rates and is_dual_smaller(weight, rows))


def layer_of(leaves: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None) -> TaskLayer:
    """Layer with these leaves, of the shared weight [in, out] and bias [out]; without leaves the shared layer."""
    if "deltas" in leaves:
        return LowRankLayer(weight, bias, leaves["inputs"], leaves["deltas"])
    origin = SharedLayer(weight, bias)
    return OwnLayer(leaves["weight"], leaves.get("bias"), origin) if "weight" in leaves else origin


def constant_steps(start: TaskLayer, end: TaskLayer, unit: Tensor) -> TaskLayer:
    """Layer `end`, made by steps from `start` that are constants to an outer gradient.

    That gradient reaches `start` and `unit`: ones, a number or one for each weight as in `step`, whose gradient is that
    of a factor on the steps.
    """
    if isinstance(end, LowRankLayer):
        deltas = end.deltas * unit
        if isinstance(start, LowRankLayer):
            deltas = torch.cat([start.deltas, deltas[:, start.deltas.shape[1] :]], 1)
        return LowRankLayer(end.weight, end.bias, end.inputs, deltas)
    if isinstance(end, OwnLayer):
        of_weight, of_bias = (unit[: end.weight.shape[1]], unit[-1]) if unit.dim() else (unit, unit)
        weight = start.weight + (end.weight - start.weight.detach()) * of_weight
        if end.bias is None or start.bias is None:
            return OwnLayer(weight, None, end.origin)
        return OwnLayer(weight, start.bias + (end.bias - start.bias.detach()) * of_bias, end.origin)
    return start
