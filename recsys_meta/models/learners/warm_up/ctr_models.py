"""Click-through rate models, the frozen base models: an entity's ID embedding is one of their fields.

Every field is one vector: the entity's ID (a fast weight, each task its own) and features; the item's ID and features;
the context of the row. Three ways from fields to a logit:

- `deepfm` (Guo et al. 2017): a perceptron on all fields plus the sum over fields of w_f e_f . (all other fields);
- `wide-deep` (Cheng et al. 2016): a perceptron plus a linear part;
- `two-tower`: a perceptron on the entity's fields times one on the row's, plus a linear part.

Contributions of fields are computed by *side* (entity, item, context) and added up: those of the items of the whole
catalogue are precomputed in a body, and pairs are never materialized before the first hidden layer. F fields, H width
of that layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import FIRST, IntArray, Params
from recsys_meta.models.functional.embeddings import (
    catalogue_features,
    embed_fields,
    init_embedding_bag,
    init_mlp,
    item_features,
    linear,
)
from recsys_meta.models.functional.feature_tables import context_table
from recsys_meta.models.protocols import PredictorConfig

RANK_FLOATS = 4_000_000
"""Bound on the activations that ranking the catalogue holds at once."""

ENTITY, ITEM, CONTEXT = "base.entity", "base.items", "base.context"
"""Prefixes of the tables of the three sides."""


class ClickConfig(PredictorConfig):
    """Configuration of the base model and of its training, passes over all rows of the past entities."""

    objective: Literal["click"] = Field(default="click", description="objective of the data set")
    base: Literal["two-tower", "wide-deep", "deepfm"] = Field(
        default="deepfm", description="model of clicks that is trained first and then frozen"
    )
    dims: int = Field(default=128, ge=1, description="length of vectors")
    hidden: tuple[int, ...] = Field(default=(128, 128), description="widths of the hidden layers")
    scale: float = Field(default=0.01, gt=0, description="deviation of fresh embeddings")
    base_epochs: int = Field(default=1, ge=1, description="epochs of the base model")
    base_batch: int = Field(default=200, ge=1, description="rows of a step")
    base_rate: float = Field(default=1e-3, gt=0, description="rate of Adam for the base model")
    base_decay: float = Field(default=0.0, ge=0, description="weight decay")
    base_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout of field vectors in the base model")
    unknown: float = Field(default=0.0, ge=0, lt=1, description="share of items and values hidden in training")

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden needs at least one layer, each at least 1 wide, got {self.hidden}")
        return self


@dataclass(frozen=True)
class FieldContribution:
    """Contribution of some fields to the logit. first [..., H]: their part of the first hidden layer; plain, weighted
    [..., D]: sums of their vectors (no columns but for `deepfm`); own [...]: their logit by themselves."""

    first: Tensor
    plain: Tensor
    weighted: Tensor
    own: Tensor

    def at(self, index: Tensor) -> FieldContribution:
        """Contributions at some rows of a table of them."""
        return FieldContribution(self.first[index], self.plain[index], self.weighted[index], self.own[index])

    def join(self, other: FieldContribution) -> FieldContribution:
        """Join with the contribution of other fields of the same rows."""
        interaction = (self.plain * other.weighted + self.weighted * other.plain).sum(-1)
        return FieldContribution(
            self.first + other.first,
            self.plain + other.plain,
            self.weighted + other.weighted,
            self.own + other.own + interaction,
        )


def init_ctr_model(config: ClickConfig, data: Dataset, entities: IntArray, level: float, g: torch.Generator) -> Params:
    """Fresh parameters, all under 'base.' and 'catalogue.'; `level` is the mean label of past rows."""
    items = np.arange(FIRST, data.catalogue)
    rows = np.arange(len(data.events))
    tables = ((ENTITY, data.entities, entities), (ITEM, data.items, items), (CONTEXT, context_table(data), rows))
    params: Params = {**item_features(data.items)}
    for prefix, table, some in tables:
        params |= init_embedding_bag(prefix, dict(sorted(table.items())), some, config.dims, config.scale, g)
    params["base.item"] = torch.randn(data.catalogue, config.dims, generator=g) * config.scale
    params["base.item"][:FIRST] = 0  # an unknown item has no evidence of its own
    count = 2 + sum(len(table) for _, table, _ in tables)
    params["base.neutral"] = torch.zeros(len(tables[2][1]), config.dims)
    first = torch.randn(count, config.dims, config.hidden[0], generator=g)
    params["base.first"] = first * (2 / (count * config.dims)) ** 0.5
    logit = math.log((level + 1e-3) / (1 - level + 1e-3))
    if config.base == "two-tower":
        params |= {"base.bias": torch.zeros(2, config.hidden[0]), "base.level": torch.tensor(logit)}
        for tower in ("entity", "row"):
            params |= init_mlp(f"base.tower.{tower}", config.hidden, g)
    else:
        params["base.bias"] = torch.zeros(config.hidden[0])
        params |= init_mlp("base.deep", (*config.hidden, 1), g)
        params[f"base.deep.{len(config.hidden) - 1}.bias"] += logit
    if config.base == "deepfm":
        params["base.crossed"] = torch.full((count,), 0.5)  # every pair once: a factorisation machine
    else:
        params["base.wide"] = torch.zeros(count, config.dims)
    return params


def fields_of(params: Mapping[str, Tensor], prefix: str, features: Mapping[str, Tensor]) -> Tensor:
    """Vectors [N, F, D] of the features of one side, in the order of their names."""
    if features:
        return torch.stack(embed_fields(params, prefix, features), 1)
    return params["base.first"].new_zeros(1, 0, params["base.first"].shape[1])


def item_fields(params: Mapping[str, Tensor], item: Tensor) -> Tensor:
    """Vectors [N, F, D] of items [N], the ID first."""
    features = {name: value[item] for name, value in catalogue_features(params).items()}
    id_vector = params["base.item"][item][:, None]
    return torch.cat([id_vector, fields_of(params, ITEM, features)], 1) if features else id_vector


def context_names(params: Mapping[str, Tensor]) -> list[str]:
    """Names of the context fields that the model has weights for, sorted."""
    keys = (k.removeprefix(f"{CONTEXT}.") for k in params if k.startswith(f"{CONTEXT}.") and not k.endswith(".knots"))
    return sorted(k.removesuffix(".weight") for k in keys)


def context_fields(params: Mapping[str, Tensor], context: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
    """Vectors [*shape, F, D] of the context of rows; a field that the rows lack is its mean over past rows."""
    vectors, dims = [], params["base.neutral"].shape[1]
    for position, name in enumerate(context_names(params)):
        if name in context:
            value = context[name].reshape(-1)
            cells = value if value.is_floating_point() else value[:, None]
            vectors.append(embed_fields(params, CONTEXT, {name: cells})[0].reshape(*shape, dims))
        else:
            vectors.append(params["base.neutral"][position].expand(*shape, dims))
    return torch.stack(vectors, -2)


def field_contribution(
    config: ClickConfig, params: Mapping[str, Tensor], vectors: Tensor, begin: int
) -> FieldContribution:
    """Contribution of fields [..., F, D], the first of which is the model's field number `begin`."""
    some = slice(begin, begin + vectors.shape[-2])
    first = vectors.flatten(-2) @ params["base.first"][some].flatten(0, 1)
    if config.base != "deepfm":
        logit = (vectors * params["base.wide"][some]).sum((-2, -1))
        none = vectors.new_zeros(*vectors.shape[:-2], 0)
        return FieldContribution(first, none, none, logit)
    weight = params["base.crossed"][some]
    total, weighted_sum = vectors.sum(-2), (vectors * weight[:, None]).sum(-2)
    logit = (total * weighted_sum).sum(-1) - vectors.square().sum(-1) @ weight
    return FieldContribution(first, total, weighted_sum, logit)


def entity_contribution(
    config: ClickConfig, params: Mapping[str, Tensor], z: Tensor, features: Tensor
) -> FieldContribution:
    """Contribution of T entities with ID embeddings z [T, D] and feature vectors [T, F, D]."""
    return field_contribution(config, params, torch.cat([z[:, None], features], 1), 0)


def item_contribution(
    config: ClickConfig, params: Mapping[str, Tensor], vectors: Tensor, before: int
) -> FieldContribution:
    """Contribution of items with fields [..., F, D], where an entity has `before` fields."""
    return field_contribution(config, params, vectors, before)


def ctr_logits(
    config: ClickConfig, params: Mapping[str, Tensor], entity: FieldContribution, rows: FieldContribution
) -> Tensor:
    """Logits [T, R] of entities [T, ...] in rows [T, R, ...] or, the same for all tasks, [1, R, ...]."""
    interaction = rows.plain @ entity.weighted[:, :, None] + rows.weighted @ entity.plain[:, :, None]
    total = interaction.squeeze(-1) + entity.own[:, None] + rows.own
    if config.base == "two-tower":
        ours = _layers(params, "base.tower.entity", entity.first + params["base.bias"][0])
        theirs = _layers(params, "base.tower.row", rows.first + params["base.bias"][1])
        return total + (theirs @ ours[:, :, None]).squeeze(-1) + params["base.level"]
    x = entity.first[:, None] + rows.first + params["base.bias"]
    return total + _layers(params, "base.deep", x).squeeze(-1)


def _layers(params: Mapping[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    """Apply the layers after the first to its output x [..., H]; there is none if a tower has one layer only."""
    count = sum(k.startswith(f"{prefix}.") for k in params) // 2
    for i in range(count):
        x = linear(torch.relu(x), params[f"{prefix}.{i}.weight"], params[f"{prefix}.{i}.bias"])
    return x


def ctr_body(config: ClickConfig, params: Params) -> Params:
    """Body of the model: contributions of the whole catalogue ('side.<name>', [C, ...]) in place of the items'
    tables."""
    every = torch.arange(len(params["base.item"]), device=params["base.item"].device)
    items = item_contribution(config, params, item_fields(params, every), 1 + entity_count(params))
    out = ("catalogue.", f"{ITEM}.", "past.")
    body = {k: v for k, v in params.items() if not k.startswith(out) and k != "base.item"}
    return body | {f"side.{name}": value for name, value in vars(items).items()}


def entity_count(params: Mapping[str, Tensor]) -> int:
    """Number of feature fields of an entity."""
    return sum(k.startswith(f"{ENTITY}.") and not k.endswith(".knots") for k in params)


def catalogue_contribution(body: Mapping[str, Tensor]) -> FieldContribution:
    """Contributions of all items of a body."""
    return FieldContribution(body["side.first"], body["side.plain"], body["side.weighted"], body["side.own"])


def row_contribution(
    config: ClickConfig, body: Mapping[str, Tensor], item: Tensor, context: Mapping[str, Tensor]
) -> FieldContribution:
    """Contribution of rows with items [T, R] and their context."""
    items = catalogue_contribution(body).at(item)
    names = context_names(body)
    if not names:
        return items
    vectors = context_fields(body, context, item.shape)
    return items.join(field_contribution(config, body, vectors, len(body["base.first"]) - len(names)))


def ctr_rank(config: ClickConfig, body: Mapping[str, Tensor], entity: FieldContribution) -> Tensor:
    """Logits [T, C] of the whole catalogue in the mean context of past rows, computed in chunks of items."""
    tasks, count = len(entity.own), len(body["side.own"])
    chunk = max(1, RANK_FLOATS // max(1, tasks * max(config.hidden)))
    every = torch.arange(count, device=entity.own.device)
    parts = [
        ctr_logits(config, body, entity, row_contribution(config, body, ids[None], {}))
        for ids in torch.split(every, chunk)
    ]
    return torch.cat(parts, 1)
