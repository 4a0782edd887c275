"""Linear layers that T tasks adapt by steps of gradient descent, without a copy of the weights for each task.

A step of rate a on rows X [N, in] with gradients G [N, out] in the outputs changes a layer by X' D, where D = -a G. So
a task's layer is the shared weight W and the pairs (X, D) of its steps, its *dual form*:

    x W_t + b_t = x W + b + (x X' + 1) D          g W_t' = g W' + (g D') X

which costs N (in + out) a row, where a copy costs in * out in every step. `LowRankLayer` is that form. For a task with
so many rows that its pairs are larger than the copy, N (in + out) > in * out, the layer is spelt out (`OwnLayer`). Both
are equal up to rounding, and gradients of any order pass through both, since they are plain products.

R rows; `delta` is always D, the gradient times minus the rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from recsys_meta.core.types import State
from recsys_meta.models.functional.batched_products import add_column_products, row_products


class TaskLayer(Protocol):
    """A layer of T tasks."""

    def apply(self, x: Tensor) -> Tensor:
        """Outputs [T, R, out] of inputs [T, R, in] or, the same for all tasks, [R, in]; without a step [R, out]."""

    def backward(self, gradient: Tensor) -> Tensor:
        """Gradient [T, R, in] in the inputs, from that in the outputs [T, R, out]."""

    def step(self, x: Tensor, delta: Tensor) -> TaskLayer:
        """Layer after a step on inputs x, [T, R, in] or [R, in], with delta [T, R, out]."""

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

    def step(self, x: Tensor, delta: Tensor) -> TaskLayer:
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

    def step(self, x: Tensor, delta: Tensor) -> LowRankLayer | OwnLayer:
        x = x if x.dim() == 3 else x.expand(len(delta), *x.shape)
        if self.is_dual:
            return LowRankLayer(self.weight, self.bias, x, delta)
        bias = None if self.bias is None else self.bias + delta.sum(1)
        return OwnLayer(add_column_products(self.weight, x, delta), bias, SharedLayer(self.weight, self.bias))

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

    def step(self, x: Tensor, delta: Tensor) -> Self:
        x = x if x.dim() == 3 else x.expand(len(delta), *x.shape)
        return type(self)(self.weight, self.bias, torch.cat([self.inputs, x], 1), torch.cat([self.deltas, delta], 1))

    def spell_out(self) -> OwnLayer:
        """Make a weight for each task."""
        weight = add_column_products(self.weight, self.inputs, self.deltas)
        return OwnLayer(weight, None if self.bias is None else self.bias + self.deltas.sum(1))

    def leaves(self) -> State:
        return {"inputs": self.inputs, "deltas": self.deltas}

    def change(self) -> Tensor:
        return (self.gram(self.inputs) * row_products(self.deltas, self.deltas)).sum((1, 2))


@dataclass(frozen=True)
class OwnLayer:
    """Layer spelt out: weight [T, in, out] and bias [T, out] or None; `origin` is what it was before any step."""

    weight: Tensor
    bias: Tensor | None
    origin: SharedLayer | None = None

    def apply(self, x: Tensor) -> Tensor:
        product = x @ self.weight
        return product if self.bias is None else product + self.bias[:, None]

    def backward(self, gradient: Tensor) -> Tensor:
        return row_products(gradient, self.weight)

    def step(self, x: Tensor, delta: Tensor) -> Self:
        x = x if x.dim() == 3 else x.expand(len(delta), *x.shape)
        bias = None if self.bias is None else self.bias + delta.sum(1)
        return type(self)(add_column_products(self.weight, x, delta), bias, self.origin)

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


def start_layer(weight: Tensor, bias: Tensor | None, tasks: int, rows: int) -> FreshLayer:
    """Layer of T tasks before their first step, to be in the smaller form for `rows` rows of all their steps."""
    return FreshLayer(weight, bias, tasks, is_dual_smaller(weight, rows))


def layer_of(leaves: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None) -> TaskLayer:
    """Layer with these leaves, of the shared weight [in, out] and bias [out]; without leaves the shared layer."""
    if "deltas" in leaves:
        return LowRankLayer(weight, bias, leaves["inputs"], leaves["deltas"])
    origin = SharedLayer(weight, bias)
    return OwnLayer(leaves["weight"], leaves.get("bias"), origin) if "weight" in leaves else origin


def first_order(layer: TaskLayer, weight: Tensor, bias: Tensor | None, unit: Tensor) -> TaskLayer:
    """Layer whose steps are constants to an outer gradient, which reaches weight, bias and `unit`: a 1 whose gradient
    is that of a factor on the steps."""
    if isinstance(layer, LowRankLayer):
        return LowRankLayer(weight, bias, layer.inputs, layer.deltas * unit)
    if isinstance(layer, OwnLayer):
        assert layer.origin is not None, "made by a step"
        own, origin = weight + (layer.weight - layer.origin.weight) * unit, SharedLayer(weight, bias)
        if bias is None or layer.bias is None or layer.origin.bias is None:
            return OwnLayer(own, None, origin)
        return OwnLayer(own, bias + (layer.bias - layer.origin.bias) * unit, origin)
    return SharedLayer(weight, bias)
