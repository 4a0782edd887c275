"""Siamese network (Koch, Zemel & Salakhutdinov 2015): a twin map f and a learned distance say whether two items are for
the same taste; an item is compared with every row of the support.

    d(i, n) = sum_h w_h |f(e_i)_h - f(e_n)_h|,   w > 0
    score_i = z0 . e_i + s sum_n a_n r_n sigmoid(b - d(i, n))

a_n is the row's share of the support and r_n its residual. The pairs that the paper draws are here those of an episode:
its query rows with the support are pairs of the same taste, everything else in the loss is of another.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.types import Params, State
from recsys_meta.models.learners.amortized.support_encoder import (
    SCORE_FLOATS,
    EncodedRows,
    SupportEncoder,
    SupportEncoderConfig,
)


class SiameseConfig(SupportEncoderConfig):
    """Configuration of `SiameseNetwork`."""

    hidden: int = Field(default=32, ge=1, description="width of the twin map's output")


class SiameseNetwork(SupportEncoder[SiameseConfig]):
    """The learner that this module describes."""

    name: ClassVar[str] = "siamese"
    Config: ClassVar[type[SiameseConfig]] = SiameseConfig

    def init_method(self, generator: torch.Generator) -> Params:
        width, hidden = self.config.width, self.config.hidden
        return {
            "rate.pairs": torch.zeros(()),
            "log_distance": torch.full((hidden,), 1.0 / hidden).log(),
            "same": torch.ones(()),
            "twin": torch.randn(width, hidden, generator=generator) / (self.config.scale * math.sqrt(width)),
        }

    def encode(self, body: Params, rows: EncodedRows) -> State:
        """z is the start; key [T, S, H] the rows' twins, in which the distance is a plain sum, and value [T, S]."""
        return {"z": rows.start, "key": self._twin(body, rows.vectors), "value": rows.weight * rows.residual}

    def pair_scores(self, body: Params, state: State, e: Tensor) -> Tensor:
        base = super().pair_scores(body, state, e)
        tasks, slots = state["value"].shape
        if not slots:
            return base
        chunk = max(1, SCORE_FLOATS // (slots * max(1, tasks)))
        parts = [self._compare(body, state, part) for part in torch.split(self._twin(body, e), chunk, -2)]
        return base + body["rate.pairs"].exp() * torch.cat(parts, 1)

    def _twin(self, body: Params, e: Tensor) -> Tensor:
        return functional.softsign(e @ body["twin"]) * body["log_distance"].exp()

    def _compare(self, body: Params, state: State, twin: Tensor) -> Tensor:
        """Sum over the rows [T, N] of value times sameness, for twins [N, H] or [T, N, H] of items."""
        distance = torch.cdist(twin.expand(len(state["key"]), -1, -1), state["key"], p=1.0)
        return torch.einsum("tns,ts->tn", torch.sigmoid(body["same"] - distance), state["value"])
