"""Conditional neural process (Garnelo et al. 2018) with the task-relevance pool of TaNP (Lin et al. 2021).

Each row is encoded, h_s = f([e_s; r_s]); the task's variable h is their mean. A pool of K learned prototypes is
attended to, c = sum_k softmax(h . q_k) v_k, and modulates the decoder by feature-wise scale and shift. With p the mean
of residual times vector,

    z = z0 + s p + (1 + A c) * (D h) + B c

This is the deterministic path: without the latent variable that the neural process samples per task, whose Kullback-
Leibler term those papers anneal.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.types import Params, State
from recsys_meta.models.functional.embeddings import init_mlp
from recsys_meta.models.learners.amortized.support_encoder import EncodedRows, SupportEncoder, SupportEncoderConfig


class NeuralProcessConfig(SupportEncoderConfig):
    """Configuration of `NeuralProcess`."""

    hidden: int = Field(default=64, ge=1, description="width of encoder and task variable")
    pool: int = Field(default=8, ge=1, description="prototypes of the task-relevance pool")


class NeuralProcess(SupportEncoder[NeuralProcessConfig]):
    """The learner that this module describes."""

    name: ClassVar[str] = "neural-process"
    Config: ClassVar[type[NeuralProcessConfig]] = NeuralProcessConfig

    def init_method(self, generator: torch.Generator) -> Params:
        width, hidden, pool = self.config.width, self.config.hidden, self.config.pool
        layers = init_mlp("encoder", (width + 1, hidden, hidden), generator)

        def small(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator) * (0.1 / math.sqrt(shape[0]))

        return layers | {
            "rate.mean": torch.zeros(()),
            "pool.query": torch.randn(hidden, pool, generator=generator) * hidden**-0.5,
            "pool.value": torch.randn(pool, hidden, generator=generator),
            "decoder": small(hidden, width),
            "modulation.scale": small(hidden, width),
            "modulation.shift": small(hidden, width),
        }

    def encode(self, body: Params, rows: EncodedRows) -> State:
        # Vectors are short beside residuals: both enter at the scale of 1.
        length = self.config.scale * rows.vectors.shape[2] ** 0.5
        x = torch.cat([rows.vectors / length, rows.residual[:, :, None]], 2)
        for i in range(2):
            x = x if i == 0 else torch.relu(x)
            x = x @ body[f"encoder.{i}.weight"] + body[f"encoder.{i}.bias"]
        h = torch.einsum("ts,tsh->th", rows.weight, x)
        relevance = torch.softmax(h @ body["pool.query"], 1) @ body["pool.value"]
        decoded = (1 + relevance @ body["modulation.scale"]) * (h @ body["decoder"]) + relevance @ body[
            "modulation.shift"
        ]
        some = rows.mask.any(1, keepdim=True)
        return {"z": rows.start + body["rate.mean"].exp() * rows.mean_vector() + decoded * some}
