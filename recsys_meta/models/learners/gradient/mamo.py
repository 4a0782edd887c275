"""MAMO (Dong et al. 2020), memory-augmented meta-optimisation: the start is made from memories of past entities.

    a = softmax(cos(p, K))                      attention of the entity's features p [Z] to slots
    z_0 = p + (sum_k a_k C_k)' p - t sum_k a_k M_k      then the steps of MAML from z_0

Features memory: keys K remember features, M what adapting changed for entities of such features. They are written, not
learned: each slot is drawn, by its attention, to the features and the changes of the entities that it meets, as the
gradient of half a squared distance. Task memory: C are preferences of such entities over coordinates, mixed by the same
attention; t and C are learned. (The original multiplies C with the pair of entity and item; under a dot product that is
a map of the entity alone. It writes the adapted C back.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Params, State, Support, TaskBatch
from recsys_meta.models.learners.maml.gradient_learner import GradientLearner
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig
from recsys_meta.models.protocols import ParamGroup, PredictorConfig


class MamoSettings(PredictorConfig):
    """Settings of the method."""

    slots: int = Field(default=8, ge=1, description="slots of the memories")
    bias: float = Field(default=0.1, gt=0, description="weight t of the remembered changes at the start; it is learned")


class MamoConfig(MamoSettings, MamlConfig):
    """Configuration of `Mamo`."""


class MamoMethod(GradientLearner):
    """The method that this module describes, for any network."""

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        params = super().init(data, entities, generator)
        slots, width = self.config.slots, self.entity_width(params)
        return params | {
            "memory.features": torch.randn(slots, width, generator=generator) * self.config.scale,
            "memory.changes": torch.randn(slots, width, generator=generator) * 0.01,
            "memory.preferences": torch.randn(slots, width, width, generator=generator) * 0.01,
            "log_bias": torch.tensor(math.log(self.config.bias)),
        }

    def param_group(self, key: str) -> ParamGroup:
        is_written = key in ("memory.features", "memory.changes")  # what is remembered does not fade
        return ParamGroup() if is_written else super().param_group(key)

    def start_state(self, body: Params, support: Support) -> State:
        state = super().start_state(body, support)
        z, attention = state["z"], self._attention(body, state["z"])
        preference = torch.einsum("tk,kyz,ty->tz", attention, body["memory.preferences"], z)
        change = body["log_bias"].exp() * attention @ body["memory.changes"].detach()
        return state | {"z": z + preference - change}

    def _attention(self, body: Params, z: Tensor) -> Tensor:
        keys = functional.normalize(body["memory.features"].detach(), dim=1)
        return torch.softmax(functional.normalize(z, dim=1) @ keys.T, 1)

    def task_losses(self, body: Params, batch: TaskBatch) -> tuple[Tensor, State]:
        losses, state = super().task_losses(body, batch)
        return losses + self._write(body, batch), state

    def _write(self, body: Params, batch: TaskBatch) -> Tensor:
        """Loss [T] whose gradient writes the features memory."""
        with torch.no_grad():
            features = super().start_state(body, batch.support)["z"]
            attention = self._attention(body, features)
            rows, start = self.inner_rows(batch.support), self.start_state(body, batch.support)
            change = self.entity_gradient(body, start, rows)
        some = rows.mask.any(1)
        to_features = (body["memory.features"] - features[:, None]).square().sum(2)
        to_changes = (body["memory.changes"] - change[:, None]).square().sum(2) * some[:, None]
        return (attention * (to_features + to_changes)).sum(1) / 2


@dataclass(frozen=True)
class Mamo(MamoMethod, Maml):
    """The learner that this module describes."""

    config: MamoConfig = field(default_factory=MamoConfig)
    name: ClassVar[str] = "mamo"
    Config: ClassVar[type[MamlConfig]] = MamoConfig
