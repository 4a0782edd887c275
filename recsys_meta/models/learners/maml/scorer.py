"""The scorer that MAML adapts: vectors of items and entities, and scores of pairs.

Two shapes. A *dot product*: z . e_i + b_i with e_i = E_i + W f_i and z = v + V f_u; where scores are label units
or log-odds the item vector ends in a constant 1, so that the last coordinate of z is the entity's own bias. A
*multi-layer perceptron* on [z; e_i]: its first layer is applied as Wz z + We e_i, so that pairs are
never materialized before it.

Layers that tasks adapt are in `perceptron`. Shape letters as in `core.types`; Z is the length of an entity vector, V
that of an item vector, H the width of the first layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, IntArray, Params, State, Support
from recsys_meta.models.functional.embeddings import (
    catalogue_features,
    init_embedding_bag,
    init_mlp,
    item_features,
    require_item_features,
    stack_fields,
)
from recsys_meta.models.learners.maml.perceptron import perceptron_of
from recsys_meta.models.protocols import PredictorConfig

RANK_FLOATS = 4_000_000
"""Bound on the activations that ranking the catalogue holds at once."""


class ScorerConfig(PredictorConfig):
    """Configuration of the scorer. `objective` is the data set's; `hidden` () is a dot product."""

    objective: Objective = Field(default="ranking", description="objective of the data set")
    dims: int = Field(default=64, ge=1, description="length of vectors")
    hidden: tuple[int, ...] = Field(default=(), description="widths of the hidden layers; none: a dot product")
    combine: Literal["sum", "concat"] = Field(default="sum", description="how vectors enter the perceptron")
    item_id: bool = Field(default=True, description="a learned vector of each item beside its features")
    item_bias: bool = Field(default=True, description="a learned level of each item")
    negatives: int = Field(default=0, ge=0, description="sampled softmax with so many; 0: the whole catalogue")
    scale: float = Field(default=0.1, gt=0, description="deviation of fresh embeddings")
    entity_start: bool = Field(default=True, description="a learned start vector beside the entity's features")

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if not self.hidden and self.combine == "concat":
            raise ValueError("combine 'concat' needs hidden layers; a dot product takes 'sum'")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden layers must be at least 1 wide, got {self.hidden}")
        if self.objective == "ranking" and self.hidden and not self.negatives:
            raise ValueError("a ranking with hidden layers needs negatives > 0 (a sampled softmax)")
        return self

    @property
    def constant(self) -> bool:
        """True if item vectors end in a constant 1."""
        return not self.hidden and self.objective != "ranking"


def init_scorer(config: ScorerConfig, data: Dataset, entities: IntArray, base: Tensor, g: torch.Generator) -> Params:
    """Fresh parameters. base [C] are the initial item biases; their mean over items is the level of the scores.

    Raises ConfigError if items have neither features nor embeddings of their own.
    """
    require_item_features(data, config.item_id)
    extra = int(config.constant)
    items = torch.arange(FIRST, data.catalogue).numpy()
    params = {
        **init_embedding_bag("items", data.items, items, config.dims, config.scale, g),
        **init_embedding_bag("entity", data.entities, entities, config.dims + extra, config.scale, g),
        **item_features(data.items),
    }
    if config.item_id:
        params["item"] = torch.randn(data.catalogue, config.dims, generator=g) * config.scale
        params["item"][:FIRST] = 0  # an unknown item has no evidence of its own
    level = base[FIRST:].mean() if data.catalogue > FIRST else torch.zeros(())
    if config.entity_start or not data.entities:
        params["start"] = torch.randn(config.dims + extra, generator=g) * config.scale
    if config.item_bias:
        params["bias"] = base - level if config.objective != "ranking" else base.clone()
    if config.hidden:
        sides = [len(data.entities) + ("start" in params), len(data.items) + config.item_id]
        width = sum(config.dims * (n if config.combine == "concat" else 1) for n in sides)
        params |= init_mlp("head", (width, *config.hidden, 1), g)
        if config.objective != "ranking":
            params[f"head.{len(config.hidden)}.bias"] += level
    elif config.constant and "start" in params:
        params["start"][-1] = level
    return params


def item_vectors(config: ScorerConfig, params: Mapping[str, Tensor]) -> Tensor:
    """Vectors of the whole catalogue, [C, V], without the constant."""
    id_vectors = [params["item"][:, None]] if config.item_id else []
    return _combine(config, id_vectors + stack_fields(params, "items", catalogue_features(params)))


def scorer_body(config: ScorerConfig, params: Params, vectors: Tensor, *, fixed_head: bool) -> Params:
    """Body of the scorer, from the parameters and the item vectors [C, V].

    The first layer of a perceptron is in two parts, `first.entity` [Z, H] and `first.item` [V, H]. Where no task adapts
    it, `fixed_head`, there is no item part: `vectors` [C, H] are its outputs.
    """
    body = {k: v for k, v in params.items() if not k.startswith(("catalogue.", "items.")) and k != "item"}
    if config.constant:
        vectors = torch.cat([vectors, torch.ones_like(vectors[:, :1])], 1)
    if config.hidden:
        weight, width = params["head.0.weight"], vectors.shape[1]
        body["first.entity"], item = torch.split(weight, [len(weight) - width, width])
        if fixed_head:
            vectors = vectors @ item
        else:
            body["first.item"] = item
    return body | {"vectors": vectors}


def entity_vectors(config: ScorerConfig, body: Mapping[str, Tensor], support: Support) -> Tensor:
    """Initial vectors [T, Z] of T entities, from their features alone."""
    start = [body["start"].expand(support.size, 1, -1)] if "start" in body else []
    return _combine(config, start + stack_fields(body, "entity", support.features))


def _combine(config: ScorerConfig, vectors: list[Tensor]) -> Tensor:
    """One vector [N, Z] from several, [N, F, D] each."""
    joined = torch.cat(vectors, 1) if len(vectors) > 1 else vectors[0]
    return joined.flatten(1) if config.combine == "concat" else joined.sum(1)


def pair_scores(config: ScorerConfig, body: Params, state: State, e: Tensor) -> Tensor:
    """Scores [T, R] less the item bias; e [T, R, V] or, the same for all tasks, [R, V].

    Where no task adapts the first layer, e is the output of its item part.
    """
    if not config.hidden:
        z = state["z"]
        return z @ e.T if e.dim() == 2 else torch.einsum("trv,tv->tr", e, z)
    return perceptron_of(body, state).scores(state["z"], e)


def catalogue_scores(config: ScorerConfig, body: Params, state: State) -> Tensor:
    """Scores [T, C] of every item, item bias included; a perceptron goes over the catalogue in chunks."""
    vectors, z = body["vectors"], state["z"]
    if not config.hidden:
        scores = z @ vectors.T
    else:
        # A catalogue has more rows than a step: there the copy of the weights costs less.
        perceptron = perceptron_of(body, state).spell_out()
        chunk = max(1, RANK_FLOATS // (max(config.hidden) * max(1, z.shape[0])))
        scores = torch.cat([perceptron.scores(z, e) for e in torch.split(vectors, chunk)], 1)
    return scores + body["bias"] if config.item_bias else scores
