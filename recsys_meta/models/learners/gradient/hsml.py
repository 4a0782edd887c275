"""HSML (Yao et al. 2019), hierarchically structured meta-learning: clusters of tasks gate the start.

    g = mean over rows of encode(e_i, y_i)             embedding of the task
    h_k = p_k tanh(W g + b),  p = softmax(-|g - c_k|^2 / 2 s^2)      leaves of the tree, and so up to its root r
    z_0 = z * 2 sigma(V [g; r] + v)                    then the steps of MAML from z_0

Centres c, and what a node makes of its children, are learned; so is to restore the rows from their codes, which keeps
g a description of the support. Without a `tree` the embedding alone gates. What is gated is the entity's vector, not
every weight; at the start of training the gate is near 1 (the original's, without the factor, near a half).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Params, State, Support, TaskBatch
from recsys_meta.models.functional.embeddings import init_mlp, linear
from recsys_meta.models.learners.maml.gradient_learner import GradientLearner
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig
from recsys_meta.models.protocols import PredictorConfig


class HsmlSettings(PredictorConfig):
    """Settings of the method."""

    tree: tuple[int, ...] = Field(default=(4, 2), description="clusters of each level, from the leaves up; (): no tree")
    code: int = Field(default=16, ge=1, description="length of a task's embedding")
    spread: float = Field(default=1.0, gt=0, description="width s of a cluster")
    restore: float = Field(default=0.01, ge=0, description="weight of the restored rows in the loss")


class HsmlConfig(HsmlSettings, MamlConfig):
    """Configuration of `Hsml`."""


class HsmlMethod(GradientLearner):
    """The method that this module describes, for any network."""

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        params = super().init(data, entities, generator)
        code, inputs, width = self.config.code, self.row_width(self.body(params)), self.entity_width(params)
        params |= init_mlp("encode", (inputs, code), generator) | init_mlp("restore", (code, inputs), generator)
        for i, clusters in enumerate(self._levels):
            params |= init_mlp(f"tree.{i}", (code, clusters * code), generator)
            if clusters > 1:
                params[f"centre.{i}"] = torch.randn(clusters, code, generator=generator)
        gate = init_mlp("gate", (code * (2 if self.config.tree else 1), width), generator)
        return params | gate | {"gate.0.weight": gate["gate.0.weight"] * 0.01}

    @property
    def _levels(self) -> tuple[int, ...]:
        return (*self.config.tree, 1) if self.config.tree else ()

    def start_state(self, body: Params, support: Support) -> State:
        state = super().start_state(body, support)
        codes, weight = self._codes(body, state, support)[1:]
        embedding = torch.einsum("ts,tsk->tk", weight, codes)
        nodes = embedding[:, None]
        for i, clusters in enumerate(self._levels):
            nodes = self._level(body, nodes, i, clusters)
        known = torch.cat([embedding, nodes[:, 0]], 1) if self._levels else embedding
        return state | {"z": state["z"] * 2 * torch.sigmoid(linear(known, body["gate.0.weight"], body["gate.0.bias"]))}

    def _codes(self, body: Params, start: State, support: Support) -> tuple[Tensor, Tensor, Tensor]:
        """Rows as they are encoded [T, S, V + 1], their codes [T, S, K] and their weights [T, S] in a mean."""
        x, weight = self.row_inputs(body, start, support)
        codes = torch.relu(linear(x, body["encode.0.weight"], body["encode.0.bias"]))
        return x, codes, weight

    def _level(self, body: Params, nodes: Tensor, i: int, clusters: int) -> Tensor:
        """Nodes [T, M, K] of level i above nodes [T, N, K]."""
        values = torch.tanh(linear(nodes, body[f"tree.{i}.0.weight"], body[f"tree.{i}.0.bias"]))
        values = values.view(*values.shape[:2], clusters, self.config.code)
        if clusters == 1:
            return values.sum(1)
        distance = (nodes[:, :, None] - body[f"centre.{i}"]).square().sum(3)
        share = torch.softmax(-distance / (2 * self.config.spread**2), 2)
        return torch.einsum("tnm,tnmk->tmk", share, values)

    def task_losses(self, body: Params, batch: TaskBatch) -> tuple[Tensor, State]:
        losses, state = super().task_losses(body, batch)
        x, codes, weight = self._codes(body, super().start_state(body, batch.support), batch.support)
        restored = linear(codes, body["restore.0.weight"], body["restore.0.bias"])
        error = (restored - x.detach()).square().mean(2)
        return losses + self.config.restore * (error * weight).sum(1), state


@dataclass(frozen=True)
class Hsml(HsmlMethod, Maml):
    """The learner that this module describes."""

    config: HsmlConfig = field(default_factory=HsmlConfig)
    name: ClassVar[str] = "hsml"
    Config: ClassVar[type[MamlConfig]] = HsmlConfig
