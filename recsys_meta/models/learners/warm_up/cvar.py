"""CVAR (Zhao et al. 2022): a latent variable between the features of an entity and its ID embedding.

    q(v | ID embedding)   p(v | features)   diagonal Gaussians with linear means and log deviations
    z = decode(v, log(1 + rows of the support))     linear

    loss = L(query; decode(v_p)) + recover * |decode(v_q) - own ID embedding|^2 + align * W2(q, p)^2

Training is on past entities, whose own ID embeddings the base model has; a new entity starts at decode(mean of p) and
is warmed up on its support. In the published code the second input of the decoder is an entity's total count in the
whole data, test rows included; here it is log(1 + rows of the support). The noise on v is a ten-thousandth of its
deviation, as in the authors' code: the model is deterministic in effect. Of p the mean is used, in training too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.types import Params, State, Support, TaskBatch
from recsys_meta.models.functional.embeddings import init_mlp, linear
from recsys_meta.models.functional.losses import mean_over_tasks
from recsys_meta.models.functional.regularization import mask_entity_features
from recsys_meta.models.learners.warm_up.frozen_base_learner import (
    FrozenBaseLearner,
    WarmUpConfig,
    flat_width,
    flatten_fields,
)

START = 0.1
"""Factor on the decoder's initial weights: fresh embeddings are small."""


class CvarConfig(WarmUpConfig):
    """Configuration of `Cvar`. `latent` is the length of v."""

    latent: int = Field(default=16, ge=1, description="length of the latent vector")
    recover: float = Field(default=1.0, ge=0, description="weight of the reconstruction of the id vector")
    align: float = Field(
        default=1e-4, ge=0, description="weight of the distance between the latent of features and that of the id"
    )
    noise: float = Field(default=1e-4, ge=0, description="noise on the latent vector, as a share of its deviation")


@dataclass(frozen=True)
class Cvar(FrozenBaseLearner):
    """The learner of clicks that this module describes."""

    config: CvarConfig = field(default_factory=CvarConfig)
    name: ClassVar[str] = "cvar"
    Config: ClassVar[type[CvarConfig]] = CvarConfig

    def init_meta(self, params: Params, generator: torch.Generator) -> Params:
        """Fresh encoders and decoder, and the ID embeddings of past entities, which the decoder is to recover."""
        dims, latent = self.config.dims, self.config.latent
        features = flat_width(self.config, params)
        nets = {
            **init_mlp("from_id", (dims, 2 * latent), generator),
            **init_mlp("from_features", (features, 2 * latent), generator),
            **init_mlp("decode", (latent + 1, dims), generator),
        }
        nets["decode.0.weight"] *= START
        nets["decode.0.weight"][-1] = 0  # initially the size of the support has no effect
        return nets | {key: params[key] for key in ("past.id", "past.entity")}

    def embed(self, body: Params, support: Support) -> State:
        """z [T, D] and features [T, F, D]; in training, where the body has 'cold', z is not warmed up."""
        features = self.features(body, support)
        mean, _ = self._encode(body, "from_features", flatten_fields(features))
        z = self._decode(body, mean, support.rows.counts)
        if "cold" not in body:
            z = self.warm_up(body, z, features, support.rows)
        return {"z": z, "features": features}

    def _encode(self, params: Params, prefix: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [T, L] of a Gaussian over v."""
        mean, log = linear(x, params[f"{prefix}.0.weight"], params[f"{prefix}.0.bias"]).chunk(2, 1)
        return mean, log.exp()

    def _decode(self, params: Params, v: Tensor, counts: Tensor) -> Tensor:
        x = torch.cat([v, torch.log1p(counts)[:, None]], 1)
        return linear(x, params["decode.0.weight"], params["decode.0.bias"])

    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: None, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Cold query loss, recovery of past ID embeddings and distance of the two Gaussians; all are logged."""
        body = self.body(params)
        body["cold"] = body["base.first"].new_ones(())
        state = self.adapt(body, mask_entity_features(batch, self.config.unknown, generator))
        query = self.query_loss(body, state, batch)
        past, every = params["past.entity"], batch.whole.entity
        position = torch.searchsorted(past, every).clamp(max=len(past) - 1)
        is_past = (past[position] == every).to(query.dtype)  # other entities have no embedding to recover
        id_embedding = params["past.id"][batch.own(position)]
        p_mean, p_deviation = self._encode(params, "from_features", flatten_fields(state["features"]))
        q_mean, q_deviation = self._encode(params, "from_id", id_embedding)
        noise = torch.randn(len(every), q_mean.shape[1], generator=generator, device=q_mean.device)
        v = q_mean + self.config.noise * q_deviation * batch.own(noise)
        recovery_error = (self._decode(params, v, batch.support.rows.counts) - id_embedding).square().sum(1)
        distance = ((q_mean - p_mean).square() + (q_deviation - p_deviation).square()).sum(1)
        recovery, alignment = (mean_over_tasks(x, is_past, batch.shard) for x in (recovery_error, distance))
        loss = query + self.config.recover * recovery + self.config.align * alignment
        parts = {"query": query, "recovered": recovery, "apart": alignment}
        return loss, {k: v.detach() / batch.share for k, v in parts.items()}
