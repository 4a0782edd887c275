"""Linear layers that T tasks adapt by steps of gradient descent, without a copy of the weights for each task.

A step of rate a on rows X [N, in] with deltas D [N, out], the gradient of the loss in the outputs, changes a layer by
-a X' D. So a task's layer is the shared weight W and the pairs (X, a D) of its steps, its *dual form*:

    x W_t + b_t = x W + b - (x X' + 1) a D          d W_t' = d W' - (d (a D)') X

which costs N (in + out) a row, where a copy costs in * out in every step. `LowRankLayer` is that form. For a task with
so many rows that its pairs are larger than the copy, N (in + out) > in * out, the layer is spelt out (`OwnLayer`). Both
are equal up to rounding, and gradients of any order pass through both, since they are plain products.

R rows; `delta` is always times the rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from recsys_meta.core.types import State
from recsys_meta.models.functional.batched_products import column_products, row_products


class RowProjection(NamedTuple):
    """Rows as a layer meets them: base, [T, R, out] or [R, out], under the shared weight, and their products [T, R, N]
    with the rows of the steps; None where there are none."""

    base: Tensor
    gram: Tensor | None


class TaskLayer(Protocol):
    """A layer of T tasks."""

    def apply(self, x: Tensor) -> Tensor:
        """Outputs [T, R, out] of inputs [T, R, in] or, the same for all tasks, [R, in]."""

    def backward(self, delta: Tensor) -> Tensor:
        """Gradient [T, R, in] in the inputs, from that in the outputs, delta [T, R, out]."""

    def step(self, x: Tensor, delta: Tensor) -> TaskLayer:
        """Layer after a step on inputs x, [T, R, in] or [R, in], with delta [T, R, out]."""

    def leaves(self) -> State:
        """Tensors particular to a task: name -> tensor with a leading T."""

    def change(self) -> Tensor:
        """Squared length [T] of what the steps changed."""


@dataclass(frozen=True)
class SharedLayer:
    """Layer that no task adapts: weight [in, out] and bias [out] or None. A step leaves it as it is."""

    weight: Tensor
    bias: Tensor | None = None

    def apply(self, x: Tensor) -> Tensor:
        product = x @ self.weight
        return product if self.bias is None else product + self.bias

    def backward(self, delta: Tensor) -> Tensor:
        return delta @ self.weight.T

    def step(self, x: Tensor, delta: Tensor) -> Self:
        return self

    def leaves(self) -> State:
        return {}

    def change(self) -> Tensor:
        return self.weight.new_zeros(1)


@dataclass(frozen=True)
class LowRankLayer:
    """Layer in dual form: weight [in, out] and bias [out] or None are shared; inputs [T, N, in] and deltas [T, N, out]
    are those of the steps."""

    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    deltas: Tensor

    def apply(self, x: Tensor) -> Tensor:
        return self.apply_projected(self.project(x))

    def project(self, x: Tensor, known: RowProjection | None = None) -> RowProjection:
        """Project rows; of the same rows before a step that kept the inputs, what is `known` is not made again."""
        if known is not None and known.gram is not None:
            return known
        base = SharedLayer(self.weight, self.bias).apply(x) if known is None else known.base
        if not self.inputs.shape[1]:
            return RowProjection(base, None)
        gram = row_products(x if x.dim() == 3 else x.expand(len(self.inputs), *x.shape), self.inputs)
        return RowProjection(base, gram if self.bias is None else gram + 1)

    def apply_projected(self, rows: RowProjection) -> Tensor:
        """Outputs of projected rows; [R, out] for shared rows while there was no step."""
        if rows.gram is None:
            return rows.base
        base = rows.base if rows.base.dim() == 3 else rows.base.expand(len(self.deltas), *rows.base.shape)
        return torch.baddbmm(base, rows.gram, self.deltas, alpha=-1)

    def backward(self, delta: Tensor) -> Tensor:
        product = delta @ self.weight.T
        if not self.inputs.shape[1]:
            return product
        return torch.baddbmm(product, row_products(delta, self.deltas), self.inputs, alpha=-1)

    def step(self, x: Tensor, delta: Tensor) -> Self:
        x = x if x.dim() == 3 else x.expand(len(delta), *x.shape)
        if not self.inputs.shape[1]:
            return type(self)(self.weight, self.bias, x, delta)
        return type(self)(self.weight, self.bias, torch.cat([self.inputs, x], 1), torch.cat([self.deltas, delta], 1))

    def repeat(self, delta: Tensor) -> Self:
        """Layer after a further step on the very inputs that it has."""
        return type(self)(self.weight, self.bias, self.inputs, self.deltas + delta)

    def spell_out(self) -> OwnLayer:
        """Make a weight for each task."""
        start = self.weight.expand(len(self.inputs), *self.weight.shape)
        weight = torch.baddbmm(start, self.inputs.transpose(1, 2), self.deltas, alpha=-1)
        return OwnLayer(weight, None if self.bias is None else self.bias - self.deltas.sum(1))

    def leaves(self) -> State:
        return {"inputs": self.inputs, "deltas": self.deltas}

    def change(self) -> Tensor:
        gram = self.inputs @ self.inputs.transpose(1, 2)
        gram = gram if self.bias is None else gram + 1
        return (gram * (self.deltas @ self.deltas.transpose(1, 2))).sum((1, 2))


@dataclass(frozen=True)
class OwnLayer:
    """Layer spelt out: weight [T, in, out] and bias [T, out] or None; `origin` is what it was before any step."""

    weight: Tensor
    bias: Tensor | None
    origin: SharedLayer | None = None

    def apply(self, x: Tensor) -> Tensor:
        product = x @ self.weight
        return product if self.bias is None else product + self.bias[:, None]

    def backward(self, delta: Tensor) -> Tensor:
        return row_products(delta, self.weight)

    def step(self, x: Tensor, delta: Tensor) -> Self:
        x = x if x.dim() == 3 else x.expand(len(delta), *x.shape)
        weight = self.weight - column_products(x, delta)
        return type(self)(weight, None if self.bias is None else self.bias - delta.sum(1), self.origin)

    def leaves(self) -> State:
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    def change(self) -> Tensor:
        assert self.origin is not None, "only a layer that was made by `start_layer` knows its change"
        change = (self.weight - self.origin.weight).square().sum((1, 2))
        if self.bias is None or self.origin.bias is None:
            return change
        return change + (self.bias - self.origin.bias).square().sum(1)


def is_dual_smaller(weight: Tensor, rows: int) -> bool:
    """True if the pairs of `rows` rows are no larger than a copy of the weight [in, out]: memory, and work by row."""
    fan_in, fan_out = weight.shape
    return rows * (fan_in + fan_out) <= fan_in * fan_out


def start_layer(weight: Tensor, bias: Tensor | None, tasks: int, rows: int) -> LowRankLayer | OwnLayer:
    """Layer of T tasks before their first step, in the smaller form for `rows` rows of all their steps."""
    if is_dual_smaller(weight, rows):
        none = weight.new_zeros(tasks, 0, weight.shape[0]), weight.new_zeros(tasks, 0, weight.shape[1])
        return LowRankLayer(weight, bias, *none)
    own_bias = None if bias is None else bias.expand(tasks, *bias.shape)
    return OwnLayer(weight.expand(tasks, *weight.shape), own_bias, SharedLayer(weight, bias))


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
        assert layer.origin is not None, "made by `start_layer`"
        own = weight + (layer.weight - layer.origin.weight) * unit
        if bias is None or layer.bias is None or layer.origin.bias is None:
            return OwnLayer(own, None, SharedLayer(weight, bias))
        return OwnLayer(own, bias + (layer.bias - layer.origin.bias) * unit, SharedLayer(weight, bias))
    return SharedLayer(weight, bias)
