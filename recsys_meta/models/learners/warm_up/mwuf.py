"""MWUF (Zhu et al. 2021): the cold ID embedding of an entity is scaled by its features and shifted by its support.

    e  = mean of the past entities' ID embeddings, warmed up on the support
    z  = (1 + scale(features)) * e + shift(mean ID embedding of the support's items)

`scale` and `shift` are small perceptrons on the frozen base model, trained on the loss of the query with z; steps of e
are constants to them. Without a support there is no shift. One difference from the paper: there, e and the two nets
are trained in turns on the same rows; here the rows of the query differ from those on which e was warmed up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.types import Interactions, Params, State, Support, TaskBatch
from recsys_meta.models.functional.embeddings import init_mlp, linear
from recsys_meta.models.functional.regularization import mask_entity_features
from recsys_meta.models.learners.warm_up.frozen_base_learner import (
    FrozenBaseLearner,
    WarmUpConfig,
    flat_width,
    flatten_fields,
)

START = 0.1
"""Factor on the initial weights of the last layers: training starts near z = e."""


class MwufConfig(WarmUpConfig):
    """Configuration of `Mwuf`. `width` is that of the hidden layer of both nets."""

    width: int = Field(default=16, ge=1, description="width of the networks that scale and shift")


@dataclass(frozen=True)
class Mwuf(FrozenBaseLearner):
    """The learner of clicks that this module describes."""

    config: MwufConfig = field(default_factory=MwufConfig)
    name: ClassVar[str] = "mwuf"
    Config: ClassVar[type[MwufConfig]] = MwufConfig

    def init_meta(self, params: Params, generator: torch.Generator) -> Params:
        """Fresh nets, and the mean ID embedding of past entities. Without features the scale is the same for all."""
        dims, width = self.config.dims, self.config.width
        features = flat_width(self.config, params)
        nets = {
            **init_mlp("scale", (features, width, dims), generator),
            **init_mlp("shift", (dims, width, dims), generator),
            "base.mean": params["past.id"].mean(0),
        }
        return {k: v * START if k.endswith("1.weight") else v for k, v in nets.items()}

    def body(self, params: Params) -> Params:
        return super().body(params) | {"base.item": params["base.item"]}

    def embed(self, body: Params, support: Support) -> State:
        """z [T, D] and features [T, F, D]."""
        features = self.features(body, support)
        cold = self.warm_up(body, body["base.mean"].expand(support.size, -1), features, support.rows)
        z = (1 + _net(body, "scale", flatten_fields(features))) * cold + self._shift(body, support.rows)
        return {"z": z, "features": features}

    def _shift(self, body: Params, rows: Interactions) -> Tensor:
        weight = rows.mask / rows.counts.clamp(min=1)[:, None]
        mean = torch.einsum("ts,tsd->td", weight, body["base.item"][rows.item])
        return _net(body, "shift", mean) * rows.mask.any(1, keepdim=True)

    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: None, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean loss of the queries with the scaled and shifted embedding."""
        body = self.body(params)
        state = self.adapt(body, mask_entity_features(batch, self.config.unknown, generator))
        return self.query_loss(body, state, batch), {"size": state["z"].detach().norm(dim=1).mean()}


def _net(body: Params, prefix: str, x: Tensor) -> Tensor:
    """A perceptron with one hidden layer, [T, in] -> [T, out]."""
    units = torch.relu(linear(x, body[f"{prefix}.0.weight"], body[f"{prefix}.0.bias"]))
    return linear(units, body[f"{prefix}.1.weight"], body[f"{prefix}.1.bias"])
