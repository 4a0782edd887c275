"""Meta-Weight-Net (Shu et al. 2019), after Ren et al. (2018): MAML whose inner loss weighs each row of the support by a
small network of the row's loss at the start, so that the query improves.

    q = p - a sum_s w_s / |S| grad L(s; p),     w_s = 2 sigmoid(v(log(1 + L(s; p))))

Where rows mislead, by noise or by being what everybody meets, their loss says so. v starts near 0, where this is MAML,
and is trained by the outer gradient through the step (order 2). Ren et al. weigh by one gradient step of each row's
weight on clean rows; here the query stands for those, and what is learned carries over to newcomers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Interactions, Params, State
from recsys_meta.models.functional.embeddings import init_mlp
from recsys_meta.models.learners.maml import task_loss
from recsys_meta.models.learners.maml.inner_step import InnerStep
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig


class MetaWeightNetConfig(MamlConfig):
    """Configuration of `MetaWeightNet`."""

    order: Literal[2] = 2
    weigh: int = Field(default=16, ge=1, description="hidden width of the network that weighs rows")


@dataclass(frozen=True)
class MetaWeightNet(Maml):
    """The learner that this module describes."""

    config: MetaWeightNetConfig = field(default_factory=MetaWeightNetConfig)
    name: ClassVar[str] = "meta-weight-net"
    Config: ClassVar[type[MamlConfig]] = MetaWeightNetConfig

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        params = super().init(data, entities, generator) | init_mlp("weigh", (1, self.config.weigh, 1), generator)
        params["weigh.1.weight"] *= 0.1
        return params

    def descend(
        self, body: Params, state: State, rows: Interactions, steps: Sequence[InnerStep] | None = None
    ) -> State:
        after = super().descend(body, state | {"rows.weight": self.row_weights(body, state, rows)}, rows, steps)
        return {key: value for key, value in after.items() if key != "rows.weight"}

    def row_weights(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Weights [T, S] of rows in the mean over a task's, 0 where there is no row."""
        loss = task_loss.row_losses(self.config, body, state, rows).log1p()[:, :, None]
        hidden = torch.relu(loss @ body["weigh.0.weight"] + body["weigh.0.bias"])
        weight = 2 * torch.sigmoid(hidden @ body["weigh.1.weight"] + body["weigh.1.bias"])
        return weight.squeeze(2) * task_loss.row_weights(rows, weight.dtype)
