"""Recurrent network that all coordinates of a vector share, each with a memory of its own: the common part of learned
optimisers.

Its inputs are gradients and losses on a logarithmic scale, because they differ by orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.types import Params
from recsys_meta.models.learners.maml.maml import MamlConfig
from recsys_meta.models.protocols import PredictorConfig

SPAN = 10.0
"""Numbers below e^-SPAN are so small that they count linearly."""


class CoordinateNetworkSettings(PredictorConfig):
    """Settings of the learned optimisers, which move the entity's vector alone, by constant gradients."""

    steps: int = Field(default=3, ge=1)
    width: int = Field(default=16, ge=1, description="units of the optimiser")

    @property
    def rates(self) -> tuple[str, ...]:
        return ("entity",)


class CoordinateNetworkConfig(CoordinateNetworkSettings, MamlConfig):
    """Configuration of the learned optimisers, for the scorer of pairs."""

    adapts: Literal["entity"] = "entity"
    order: Literal[1] = 1


class CoordinateMemory(NamedTuple):
    """Hidden and cell state [N, H] of N coordinates."""

    hidden: Tensor
    cell: Tensor

    @classmethod
    def empty(cls, coordinates: int, width: int, like: Tensor) -> CoordinateMemory:
        """Memory before the first step."""
        zeros = like.new_zeros(coordinates, width)
        return cls(zeros, zeros)


def init_coordinate_network(inputs: int, width: int, generator: torch.Generator) -> Params:
    """Fresh parameters of an LSTM of `width` units."""
    scale = width**-0.5
    return {
        "lstm.input": torch.randn(4 * width, inputs, generator=generator) * scale,
        "lstm.hidden": torch.randn(4 * width, width, generator=generator) * scale,
        "lstm.bias": torch.zeros(4 * width),
    }


def remember(params: Mapping[str, Tensor], inputs: Sequence[Tensor], memory: CoordinateMemory) -> CoordinateMemory:
    """Memory after a step (Hochreiter & Schmidhuber 1997) on inputs [T, Z], T * Z being the coordinates."""
    x = torch.cat([log_scale(v) for v in inputs], -1).flatten(0, 1)
    return CoordinateMemory(
        *torch.lstm_cell(x, memory, params["lstm.input"], params["lstm.hidden"], params["lstm.bias"])
    )


def log_scale(x: Tensor) -> Tensor:
    """Logarithm of the size and sign of numbers [...], [..., 2]; below e^-SPAN -1 and the number times e^SPAN."""
    is_small = x.abs() < torch.e**-SPAN
    size = torch.where(is_small, 1.0, x.abs()).log() / SPAN
    return torch.stack([torch.where(is_small, -1.0, size), torch.where(is_small, x * torch.e**SPAN, x.sign())], -1)
