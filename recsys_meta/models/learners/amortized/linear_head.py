"""Linear heads solved in closed form: the ridge head of R2-D2 and the Bayesian one of ALPaCA.

The head of a task is its vector z. Given rows with vectors e_s and residuals r_s it minimises

    sum_s (e_s . d - r_s)^2 + c d' A d + d' P d         z = z0 + a d

P is the prior precision: l I (Bertinetto et al. 2019) or a full matrix L L' + l I (Harrison, Sharma & Pavone 2018),
both learned. Where labels are predicted, the last coordinate of d is a change of the entity's level, which meets a
constant: no scale of the vectors says how far levels differ, so beside l I it has a learned precision of its own. A
ranking has positives only, so that every item counts as a weak zero, as in implicit ALS (Hu, Koren & Volinsky 2008): A
is the mean of e e' over the catalogue and c its learned weight. The outer gradient goes through the solution. For label
objectives c is 0.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.types import FIRST, Params, State
from recsys_meta.models.functional.linear_algebra import solve, weighted_outer_sum
from recsys_meta.models.learners.amortized.support_encoder import EncodedRows, SupportEncoder, SupportEncoderConfig

JITTER = 1e-4
"""Added to the diagonal: rows may repeat."""


class LinearHeadConfig(SupportEncoderConfig):
    """Configuration of the linear heads."""

    prior: Literal["isotropic", "full"] = Field(
        default="isotropic", description="precision of the weights: one number, or a matrix that is learned"
    )


class RidgeHead(SupportEncoder[LinearHeadConfig]):
    """Ridge head with a learned isotropic prior (R2-D2)."""

    name: ClassVar[str] = "ridge-head"
    Config: ClassVar[type[LinearHeadConfig]] = LinearHeadConfig

    def init_method(self, generator: torch.Generator) -> Params:
        params = {"rate.head": torch.zeros(()), "log_precision": torch.zeros(())}
        if self.config.objective == "ranking":
            params["log_zeros"] = torch.zeros(())
        elif self.config.prior == "isotropic":
            params["log_level_precision"] = torch.zeros(())
        if self.config.prior == "full":
            params["precision"] = 0.1 * torch.randn(self.config.width, self.config.width, generator=generator)
        return params

    def method_body(self, params: Params, vectors: Tensor) -> Params:
        """Precision [V, V] of a task without rows."""
        diagonal = params["log_precision"].expand(vectors.shape[1])
        if "log_level_precision" in params:
            diagonal = torch.cat([diagonal[:-1], params["log_level_precision"][None]])
        precision = torch.diag(diagonal.exp() + JITTER)
        if self.config.prior == "full":
            precision = precision + params["precision"] @ params["precision"].T
        if self.config.objective == "ranking":
            real = vectors[FIRST:]
            precision = precision + params["log_zeros"].exp() * (real.T @ real) / max(1, len(real))
        return {"prior": precision}

    def encode(self, body: Params, rows: EncodedRows) -> State:
        matrix = body["prior"] + weighted_outer_sum(rows.vectors, rows.mask.to(rows.vectors.dtype))
        right = torch.einsum("ts,tsv->tv", rows.residual, rows.vectors)
        return {"z": rows.start + body["rate.head"].exp() * solve(matrix, right)}


class BayesianHeadConfig(LinearHeadConfig):
    """Configuration of `BayesianHead`."""

    prior: Literal["isotropic", "full"] = "full"


class BayesianHead(RidgeHead):
    """Bayesian linear head with a learned full prior (ALPaCA); z is the posterior mean."""

    name: ClassVar[str] = "bayesian-head"
    Config: ClassVar[type[LinearHeadConfig]] = BayesianHeadConfig
