"""Gradient descent as a learner (Andrychowicz et al. 2016): a recurrent network writes the updates.

    q_k = q_(k-1) - a (g_k + w . h_k),   h_k = LSTM(g_k, h_(k-1)),   g_k = grad L(S; q_(k-1))

One LSTM is shared by all coordinates of the entity's vector, each with a memory of its own. Gradients are constants to
the outer gradient, as in the original; there the network's output is the whole update. Here it is added to a plain
step, because what a fresh network writes is noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

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


class LearnedOptimizerMethod(GradientLearner):
    """The method that this module describes, for any network."""

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        network = init_coordinate_network(2, self.config.width, generator)
        network["update"] = torch.randn(self.config.width, generator=generator) * 0.01
        return super().init(data, entities, generator) | network

    def descend(self, body: Params, state: State, rows: Interactions, steps: object = None) -> State:
        z, some = state["z"], rows.mask.any(1)[:, None]
        memory = CoordinateMemory.empty(z.numel(), self.config.width, z)
        for _ in range(self.config.steps if rows.item.shape[1] else 0):
            with torch.no_grad():
                gradient = self.entity_gradient(body, state | {"z": z}, rows)
            memory = remember(body, [gradient], memory)
            update = gradient + (memory.hidden @ body["update"]).view_as(z)
            z = torch.where(some, z - body["rate.entity"].exp() * update, z)
        return state | {"z": z}


@dataclass(frozen=True)
class LearnedOptimizer(LearnedOptimizerMethod, Maml):
    """The learner that this module describes."""

    config: CoordinateNetworkConfig = field(default_factory=CoordinateNetworkConfig)
    name: ClassVar[str] = "learned-optimizer"
    Config: ClassVar[type[MamlConfig]] = CoordinateNetworkConfig
