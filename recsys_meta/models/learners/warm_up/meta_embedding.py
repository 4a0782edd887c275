"""Meta-Embedding (Pan et al. 2019): the ID embedding of a new entity is generated from the frozen embeddings of its
features, so that it has a low loss before and after one step.

    z0 = tanh(W [e_1; ...; e_F]) / 5                    e_f the base model's vectors of the features, frozen
    z1 = z0 - cold_rate * grad L(a; z0)                 a: the support, b: the query; two mini-batches of one entity
    W is trained on  share * L(a; z0) + (1 - share) * L(b; z1)

Training takes that one small step; a new entity is warmed up as the authors do it (`frozen_base_learner`). With
`initial` "random" the generator is trained but not used: new entities start at random, the authors' baseline.

Differences from the published code: rows of the base model's training are shuffled; every pair of fields is crossed
(there, the pairs of six of the eight fields); layers start from He's distribution, the last bias at the mean label;
tasks weigh the same in the meta-loss however many rows they have (there, all have 20).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.types import Params, State, Support, TaskBatch
from recsys_meta.models.functional.losses import logistic_loss, mean_over_tasks
from recsys_meta.models.learners.warm_up.frozen_base_learner import (
    FrozenBaseLearner,
    WarmUpConfig,
    flat_width,
    flatten_fields,
)

EMBEDDING_BOUND = 0.2
"""Bound on the absolute value of every coordinate of a generated embedding."""


class MetaEmbeddingConfig(WarmUpConfig):
    """Configuration of `MetaEmbedding`. `share` is the weight of the cold loss in the meta-loss."""

    initial: Literal["generated", "random"] = Field(
        default="generated", description="start of an entity: generated from features, or random"
    )
    share: float = Field(
        default=0.1, ge=0, le=1, description="weight of the loss before the step; the rest is that after it"
    )
    cold_rate: float = Field(default=1e-4, ge=0, description="rate of the one step in training")


@dataclass(frozen=True)
class MetaEmbedding(FrozenBaseLearner):
    """The learner of clicks that this module describes."""

    config: MetaEmbeddingConfig = field(default_factory=MetaEmbeddingConfig)
    name: ClassVar[str] = "meta-embedding"
    Config: ClassVar[type[MetaEmbeddingConfig]] = MetaEmbeddingConfig

    def init_meta(self, params: Params, generator: torch.Generator) -> Params:
        """A fresh generator [F D, D], or [1, D] where entities have no features and all start at the same embedding."""
        dims = self.config.dims
        width = flat_width(self.config, params)
        bound = (6 / (width + dims)) ** 0.5
        fresh = {"generator": (2 * torch.rand(width, dims, generator=generator) - 1) * bound}
        if self.config.initial == "random":
            # Not scaled like the generator: it gives a random direction, of a fresh embedding's size, for any features.
            fresh["base.noise"] = torch.randn(width, dims, generator=generator)
        return fresh

    def embed(self, body: Params, support: Support) -> State:
        """z [T, D] and features [T, F, D]. In training, where the body has 'cold_rate', after one plain step of that
        rate, through which the outer gradient goes; else after the warm-up."""
        features = self.features(body, support)
        z = self._start(body, features)
        if "cold_rate" in body:
            outer = torch.is_grad_enabled() and z.requires_grad
            if support.rows.item.shape[1]:
                z = z - body["cold_rate"] * self.gradient(body, z, features, support.rows, outer=outer)
        else:
            z = self.warm_up(body, z, features, support.rows)
        return {"z": z, "features": features}

    def _start(self, body: Params, features: Tensor) -> Tensor:
        x = flatten_fields(features)
        if "base.noise" in body and "cold_rate" not in body:
            direction = x @ body["base.noise"]
            return self.config.scale * direction / direction.std(1, keepdim=True).clamp(min=1e-8)
        return EMBEDDING_BOUND * torch.tanh(x @ body["generator"])

    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: None, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """share * cold loss on the support + (1 - share) * loss on the query after one step on the support."""
        body = self.body(params)
        body["cold_rate"] = body["generator"].new_tensor(self.config.cold_rate)
        state = self.adapt(body, batch.support)
        cold = {"z": self._start(body, state["features"]), "features": state["features"]}
        rows = batch.support.rows
        cold_loss = logistic_loss(self.score(body, cold, rows), rows)
        loss = self.config.share * mean_over_tasks(cold_loss, batch.whole.support.rows.mask.any(1), batch.shard)
        loss = loss + (1 - self.config.share) * self.query_loss(body, state, batch)
        return loss, {"size": state["z"].detach().norm(dim=1).mean()}
