"""LWA, linear weight adaptation (Vartak et al. 2017): the weights that score a newcomer's items are a linear map of the
mean of its rows,

    score_i = (z0 + M p) . e_i,     p = mean over rows of residual times vector.

The published form has one map for liked and one for disliked rows; residuals carry the sign here, so one is enough.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from recsys_meta.core.types import Params, State
from recsys_meta.models.learners.amortized.support_encoder import EncodedRows, SupportEncoder, SupportEncoderConfig


class LinearWeightAdaptation(SupportEncoder[SupportEncoderConfig]):
    """The learner that this module describes."""

    name: ClassVar[str] = "lwa"
    Config: ClassVar[type[SupportEncoderConfig]] = SupportEncoderConfig

    def init_method(self, generator: torch.Generator) -> Params:
        width = self.config.width
        noise = 0.05 * torch.randn(width, width, generator=generator)
        return {"rate.mean": torch.zeros(()), "map": torch.eye(width) + noise}

    def encode(self, body: Params, rows: EncodedRows) -> State:
        return {"z": rows.start + body["rate.mean"].exp() * rows.mean_vector() @ body["map"]}
