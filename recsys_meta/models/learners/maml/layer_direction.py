"""Outer gradients in the layers of tasks, in the form of the layers: a sum of products of a few rows, or spelt out.

Along such a gradient, as a direction, the outputs of a layer change, and so does the gradient in its inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recsys_meta.models.functional.batched_products import add_products, products, row_products
from recsys_meta.models.functional.task_layers import LowRankLayer, OwnLayer, TaskLayer


class LayerDirection(NamedTuple):
    """Gradient in a layer of T tasks: in the weight inputs' deltas, of inputs [T, N, in] and deltas [T, N, out], or,
    where deltas are None, `inputs` [T, in, out] itself; and in the bias [T, out]."""

    inputs: Tensor
    deltas: Tensor | None
    bias: Tensor

    @classmethod
    def of(cls, layer: TaskLayer, x: Tensor, gradient: Tensor) -> LayerDirection:
        """Gradient in a layer, in its form, from that in the outputs [T, R, out] for inputs x [T, R, in]."""
        if isinstance(layer, LowRankLayer):
            return cls(x, gradient, gradient.sum(1))
        return cls(products(x.transpose(1, 2), gradient), None, gradient.sum(1))

    def apply(self, x: Tensor) -> Tensor:
        """Change of the outputs for inputs x [T, R, in] along the direction."""
        if self.deltas is None:
            return add_products(self.bias[:, None], x, self.inputs)
        return add_products(self.bias[:, None], row_products(x, self.inputs), self.deltas)

    def add_backward(self, base: Tensor, gradient: Tensor) -> Tensor:
        """Base [T, R, in] plus the change of the gradient in the inputs along the direction, from that in the outputs
        [T, R, out]."""
        if self.deltas is None:
            return add_products(base, gradient, self.inputs.transpose(1, 2))
        return add_products(base, row_products(gradient, self.deltas), self.inputs)

    def add(self, x: Tensor, gradient: Tensor, change: Tensor, delta: Tensor) -> LayerDirection:
        """The gradient plus x' gradient, which the bias has part in, and change' delta, which it has not."""
        bias = self.bias + gradient.sum(1)
        if self.deltas is None:
            weight = add_products(self.inputs, x.transpose(1, 2), gradient)
            return LayerDirection(add_products(weight, change.transpose(1, 2), delta), None, bias)
        inputs, deltas = torch.cat([self.inputs, x, change], 1), torch.cat([self.deltas, gradient, delta], 1)
        return LayerDirection(inputs, deltas, bias)

    def total(self) -> tuple[Tensor, Tensor]:
        """Gradients in the weight [in, out] and the bias [out] that the tasks started from."""
        if self.deltas is None:
            return self.inputs.sum(0), self.bias.sum(0)
        return self.inputs.flatten(0, 1).T @ self.deltas.flatten(0, 1), self.bias.sum(0)


def add_linear_part(layer: TaskLayer, base: Tensor, x: Tensor) -> Tensor:
    """Base [T, R, out] plus the outputs of a layer without its bias, for inputs x [T, R, in]."""
    if isinstance(layer, LowRankLayer):
        base = add_products(base, row_products(x, layer.inputs), layer.deltas)
    return add_products(base, x, layer.weight) if layer.weight.dim() == 3 else base + x @ layer.weight


def rate_gradient(layer: TaskLayer, direction: LayerDirection) -> Tensor:
    """Product of the steps of a layer and the gradient in it: its gradient in a factor on the steps."""
    if isinstance(layer, LowRankLayer):
        return (layer.deltas * direction.apply(layer.inputs)).sum()
    assert isinstance(layer, OwnLayer) and layer.origin is not None and layer.bias is not None
    assert layer.origin.bias is not None
    of_bias = (layer.bias - layer.origin.bias) * direction.bias
    return ((layer.weight - layer.origin.weight) * direction.inputs).sum() + of_bias.sum()
