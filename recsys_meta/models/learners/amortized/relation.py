"""Relation network (Sung et al. 2018), and NLBA, bias adaptation (Vartak et al. 2017): a perceptron compares an item
with the mean p of the support's rows (vectors times residuals),

    score_i = (z0 + s p) . e_i + g(p, e_i) - g(0, e_i),     g(p, e) = w . relu(... relu(V e + M p + b) ...).

With one hidden layer M p is a change of its biases, which is NLBA; with two or more it is the relation network. The
difference makes an empty support change nothing; the dot product is what the perceptron corrects.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.types import Params, State
from recsys_meta.models.functional.embeddings import init_mlp
from recsys_meta.models.learners.amortized.support_encoder import (
    SCORE_FLOATS,
    EncodedRows,
    SupportEncoder,
    SupportEncoderConfig,
)


class RelationConfig(SupportEncoderConfig):
    """Configuration of `RelationNetwork`."""

    hidden: tuple[int, ...] = Field(default=(64, 64), min_length=1, description="widths of the layers that compare")


class RelationNetwork(SupportEncoder[RelationConfig]):
    """The learner that this module describes."""

    name: ClassVar[str] = "relation"
    Config: ClassVar[type[RelationConfig]] = RelationConfig

    def init_method(self, generator: torch.Generator) -> Params:
        width, hidden = self.config.width, self.config.hidden
        layers = init_mlp("compare", (width, *hidden, 1), generator)
        layers |= {"map": torch.randn(width, hidden[0], generator=generator) * width**-0.5}
        layers[f"compare.{len(hidden)}.weight"] *= 0.1  # a small correction at first
        del layers[f"compare.{len(hidden)}.bias"]  # the difference has none
        return layers | {"rate.mean": torch.zeros(())}

    def encode(self, body: Params, rows: EncodedRows) -> State:
        """z, and shift [T, H] of the biases of the first layer."""
        mean = rows.mean_vector()
        return {"z": rows.start + body["rate.mean"].exp() * mean, "shift": mean @ body["map"]}

    def pair_scores(self, body: Params, state: State, e: Tensor) -> Tensor:
        tasks = len(state["shift"])
        chunk = max(1, SCORE_FLOATS // (max(self.config.hidden) * max(1, tasks)))
        parts = [self._compare(body, state["shift"], part) for part in torch.split(e, chunk, -2)]
        return super().pair_scores(body, state, e) + torch.cat(parts, 1)

    def _compare(self, body: Params, shift: Tensor, e: Tensor) -> Tensor:
        """g(p, e) - g(0, e) [T, N] for e [N, V] or [T, N, V]."""
        first = e @ body["compare.0.weight"] + body["compare.0.bias"]
        return self._upper(body, first + shift[:, None]) - self._upper(body, first)

    def _upper(self, body: Params, x: Tensor) -> Tensor:
        """Layers after the first, from its outputs [..., N, H]; [..., N]."""
        last = len(self.config.hidden)
        for i in range(1, last):
            x = torch.relu(x) @ body[f"compare.{i}.weight"] + body[f"compare.{i}.bias"]
        return (torch.relu(x) @ body[f"compare.{last}.weight"]).squeeze(-1)


class BiasAdaptationConfig(RelationConfig):
    """Configuration of `BiasAdaptation`."""

    hidden: tuple[int, ...] = Field(default=(64,), min_length=1, max_length=1, description="width of the layer")


class BiasAdaptation(RelationNetwork):
    """NLBA: the biases of one hidden layer are a linear map of the support's mean."""

    name: ClassVar[str] = "nlba"
    Config: ClassVar[type[RelationConfig]] = BiasAdaptationConfig
