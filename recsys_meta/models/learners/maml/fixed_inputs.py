"""The first layer of a perceptron where no step changes its inputs: what they are to one another is computed once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recsys_meta.models.functional.batched_products import row_products
from recsys_meta.models.functional.task_layers import FreshLayer, LowRankLayer
from recsys_meta.models.learners.maml.perceptron import Perceptron


@dataclass(frozen=True)
class FixedInputs:
    """Inputs z [T, Z] and e [T, R, V] of every step, the outputs base [T, R, H] before any, the products gram [T, R, R]
    of the whole inputs (None where no second step follows), and the sum of the steps, deltas [T, R, H] (None before the
    first)."""

    z: Tensor
    e: Tensor
    base: Tensor
    gram: Tensor | None = None
    deltas: Tensor | None = None

    @classmethod
    def of(cls, network: Perceptron, z: Tensor, e: Tensor) -> FixedInputs | None:
        """Inputs of a network without a step; None where the item part will be spelt out."""
        if isinstance(network.item, FreshLayer) and network.item.is_dual:
            return cls(z, e, network.first(z, e))
        return None

    def outputs(self) -> Tensor:
        """Outputs [T, R, H] of the first layer."""
        if self.deltas is None or self.gram is None:
            return self.base
        return torch.baddbmm(self.base, self.gram, self.deltas)

    def step(self, delta: Tensor, *, is_last: bool) -> FixedInputs:
        """The inputs after a step with delta [T, R, H], times minus the rate."""
        if self.deltas is not None:
            return replace(self, deltas=self.deltas + delta)
        if is_last:
            return replace(self, deltas=delta)
        # The rows of a task have z and the bias in common.
        common = self.z.square().sum(1) + 1
        return replace(self, gram=row_products(self.e, self.e) + common[:, None, None], deltas=delta)

    def keep(self, share: Tensor) -> FixedInputs:
        """The inputs where the steps so far count by this share."""
        return self if self.deltas is None else replace(self, deltas=self.deltas * share)

    def network(self, network: Perceptron) -> Perceptron:
        """The network with the steps of the first layer."""
        entity, item = network.entity, network.item
        if self.deltas is None or not isinstance(entity, FreshLayer) or not isinstance(item, FreshLayer):
            return network
        total = self.deltas.sum(1, keepdim=True)
        return replace(
            network,
            entity=LowRankLayer(entity.weight, entity.bias, self.z[:, None], total),
            item=LowRankLayer(item.weight, item.bias, self.e, self.deltas),
        )
