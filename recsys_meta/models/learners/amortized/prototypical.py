"""Prototypical network (Snell, Swersky & Zemel 2017): a task's prototype is the mean of its support's vectors, and an
item scores the less, the farther from it.

    score_i = z0 . e_i + s (p . e_i - |e_i|^2 / 2)

p is the residual-weighted mean, so that what was rated low or not clicked moves the prototype away; s > 0 is learned.
The square of the distance to p differs from that by a constant of the task. Without rows there is no prototype.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from recsys_meta.core.types import Params, State
from recsys_meta.models.learners.amortized.support_encoder import EncodedRows, SupportEncoder, SupportEncoderConfig


class PrototypicalNetwork(SupportEncoder[SupportEncoderConfig]):
    """The learner that this module describes."""

    name: ClassVar[str] = "prototypical"
    Config: ClassVar[type[SupportEncoderConfig]] = SupportEncoderConfig

    def init_method(self, generator: torch.Generator) -> Params:
        return {"rate.prototype": torch.zeros(())}

    def encode(self, body: Params, rows: EncodedRows) -> State:
        scale = body["rate.prototype"].exp()
        near = scale * rows.mask.any(1)
        return {"z": rows.start + scale * rows.mean_vector(), "near": near}

    def pair_scores(self, body: Params, state: State, e: Tensor) -> Tensor:
        distance = e[..., : self.config.dims].square().sum(-1) / 2
        return super().pair_scores(body, state, e) - state["near"][:, None] * distance
