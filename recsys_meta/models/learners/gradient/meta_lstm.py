"""Meta-LSTM (Ravi & Larochelle 2017): the inner optimiser is the cell of an LSTM, whose content are the parameters.

    q_k = f_k * q_(k-1) - a i_k * g_k,   g_k = grad L(S; q_(k-1))

The gates f and i of each coordinate see what an LSTM that all coordinates share remembers of gradients and losses, the
value itself, and the gate before. Gradients are constants to the outer gradient, as in the original. a is a learned
number here, with i between 0 and 2 and 1 at the start, because gradients of a ranking are far smaller than those of
labels.

The coordinates are those of the entity's vector.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Interactions, Params, State
from recsys_meta.models.learners.gradient.coordinate_network import (
    CoordinateMemory,
    CoordinateNetworkConfig,
    init_coordinate_network,
    remember,
)
from recsys_meta.models.learners.maml.gradient_learner import GradientLearner
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig

KEEP = 6.0
"""Logit of the forget gate at the start: nearly all is kept."""


class MetaLstmMethod(GradientLearner):
    """The method that this module describes, for any network."""

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        width = self.config.width
        gates = torch.randn(width + 2, 2, generator=generator) * 0.01  # to the gates f and i
        gates_bias = torch.tensor([KEEP, 0.0])
        network = init_coordinate_network(4, width, generator) | {"gates": gates, "gates.bias": gates_bias}
        return super().init(data, entities, generator) | network

    def descend(self, body: Params, state: State, rows: Interactions, steps: object = None) -> State:
        z, some = state["z"], rows.mask.any(1)[:, None]
        memory = CoordinateMemory.empty(z.numel(), self.config.width, z)
        gate = torch.stack([torch.ones_like(z), torch.zeros_like(z)], -1)
        for _ in range(self.config.steps if rows.item.shape[1] else 0):
            with torch.no_grad():
                at = state | {"z": z}
                gradient = self.entity_gradient(body, at, rows)
                loss = self.inner_loss(body, at, rows)[:, None].expand_as(z)
            memory = remember(body, [gradient, loss], memory)
            gate = self._gates(body, memory, z, gate)
            step = body["rate.entity"].exp() * 2 * gate[..., 1] * gradient
            z = torch.where(some, gate[..., 0] * z - step, z)
        return state | {"z": z}

    def _gates(self, body: Params, memory: CoordinateMemory, z: Tensor, gate: Tensor) -> Tensor:
        """Gates f and i [T, Z, 2] after a step; each sees its own value before."""
        weight, hidden = body["gates"], memory.hidden.view(*z.shape, -1)
        own = z[..., None] * weight[-2] + gate * weight[-1]
        return torch.sigmoid(hidden @ weight[:-2] + own + body["gates.bias"])


@dataclass(frozen=True)
class MetaLstm(MetaLstmMethod, Maml):
    """The learner that this module describes."""

    config: CoordinateNetworkConfig = field(default_factory=CoordinateNetworkConfig)
    name: ClassVar[str] = "meta-lstm"
    Config: ClassVar[type[MamlConfig]] = CoordinateNetworkConfig
