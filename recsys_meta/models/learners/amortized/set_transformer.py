"""Attention over the support, in context (Lee et al. 2019, Set Transformer; Mishra et al. 2018, SNAIL).

The rows and one token for the entity attend to one another in a few layers; what the entity's token ends as changes its
vector. There are no positions, so that the order of the rows has no influence:

    tokens  x_0 = W z0 + t,  x_s = W [e_s; r_s]         x <- x + attention(norm x),  x <- x + perceptron(norm x)
    z = z0 + s p + U x_0                                 p the mean of residual times vector
"""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.types import Params, State
from recsys_meta.models.learners.amortized.support_encoder import EncodedRows, SupportEncoder, SupportEncoderConfig


class SetTransformerConfig(SupportEncoderConfig):
    """Configuration of `SetTransformer`."""

    layers: int = Field(default=2, ge=1, description="layers of attention")
    heads: int = Field(default=2, ge=1, description="heads of attention")
    hidden: int = Field(default=64, ge=1, description="width of a token")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide hidden ({self.hidden})")
        return self


class SetTransformer(SupportEncoder[SetTransformerConfig]):
    """The learner that this module describes."""

    name: ClassVar[str] = "set-transformer"
    Config: ClassVar[type[SetTransformerConfig]] = SetTransformerConfig

    def init_method(self, generator: torch.Generator) -> Params:
        width, hidden = self.config.width, self.config.hidden

        def matrix(rows: int, columns: int, gain: float = 1.0) -> Tensor:
            return torch.randn(rows, columns, generator=generator) * (gain / math.sqrt(rows))

        params = {
            "rate.mean": torch.zeros(()),
            "token": torch.randn(hidden, generator=generator) * 0.1,
            "embed.entity": matrix(width, hidden),
            "embed.row": matrix(width + 1, hidden),
            "output": matrix(hidden, width, 0.03),
        }
        for i in range(self.config.layers):
            params |= {
                f"layer.{i}.attend": matrix(hidden, 3 * hidden),
                f"layer.{i}.merge": matrix(hidden, hidden, 0.5),
                f"layer.{i}.up": matrix(hidden, 2 * hidden),
                f"layer.{i}.down": matrix(2 * hidden, hidden, 0.5),
            }
        return params

    def encode(self, body: Params, rows: EncodedRows) -> State:
        length = self.config.scale * rows.vectors.shape[2] ** 0.5  # vectors are short: all enters at the scale of 1
        entity = rows.start / length @ body["embed.entity"] + body["token"]
        row = torch.cat([rows.vectors / length, rows.residual[:, :, None]], 2) @ body["embed.row"]
        x = torch.cat([entity[:, None], row], 1)
        mask = functional.pad(rows.mask, (1, 0), value=True)[:, None, None]  # every token sees all real ones
        for i in range(self.config.layers):
            x = x + self._attend(body, i, _normalize(x), mask)
            x = x + torch.relu(_normalize(x) @ body[f"layer.{i}.up"]) @ body[f"layer.{i}.down"]
        change = _normalize(x[:, 0]) @ body["output"] * rows.mask.any(1, keepdim=True)
        return {"z": rows.start + body["rate.mean"].exp() * rows.mean_vector() + change}

    def _attend(self, body: Params, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        tasks, tokens, hidden = x.shape
        parts = (x @ body[f"layer.{layer}.attend"]).view(tasks, tokens, 3, self.config.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(1, 2).reshape(tasks, tokens, hidden) @ body[f"layer.{layer}.merge"]


def _normalize(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])
