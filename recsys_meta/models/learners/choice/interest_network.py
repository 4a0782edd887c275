"""A deep interest network for items without ids (Zhou et al. 2018, in the shape of Chen et al. 2021).

A candidate attends to the actor's history, and a perceptron scores candidate, attention output, context and the
features of `choice_features`. The items of a new entity were never seen, so no item has an id: its vector is made from
its location in the catalogue, its features, and the statistics of the support. Of the products [k, v, k - v, k * v] of
key and candidate the attention gets three, since k - v is linear in both.

Weights may carry a leading T: then each task has its own. Shape letters as in `core.types`; D is the size of item
vectors.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset, FeatureTable, ItemOwnership
from recsys_meta.core.schema import LATITUDE, LONGITUDE
from recsys_meta.core.types import FIRST, EntityCatalog, IntArray, Interactions, Params, State, Support, TaskShard
from recsys_meta.models.functional.choice_features import (
    CANDIDATE_FEATURES,
    ROW_FEATURES,
    candidate_features,
    row_features,
    row_history,
    support_summary,
)
from recsys_meta.models.functional.choice_statistics import gather_by_task
from recsys_meta.models.functional.embeddings import embed_fields, init_embedding_bag, init_mlp, linear
from recsys_meta.models.functional.feature_tables import context_table
from recsys_meta.models.functional.masking import MASKED_LOGIT
from recsys_meta.models.functional.regularization import dropout
from recsys_meta.models.protocols import PredictorConfig

ITEM_INPUTS = 12
"""Numbers from which an item's vector is made, beside its features."""
DEGREE = 111.2
"""Length of a degree of latitude in km."""
PAIR_FLOATS = 20_000_000
"""Activations of the attention that are held at once while nothing is trained."""


class InterestConfig(PredictorConfig):
    """Configuration of the network."""

    dims: int = Field(default=32, ge=1, description="length of item vectors")
    attention: int = Field(default=50, ge=1, description="width of the attention's hidden layer")
    hidden: tuple[int, ...] = Field(default=(64, 64), description="widths of the hidden layers")
    context_dims: int = Field(default=8, ge=1, description="length of the vector of each context field")
    history: int = Field(default=20, ge=1, description="items that attention goes back")
    wide: bool = Field(default=True, description="the features of candidates also count directly, as in a logit")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="dropout of hidden units, while training")


def init_network(
    config: InterestConfig, data: Dataset, homes: ItemOwnership, entities: IntArray, g: torch.Generator
) -> Params:
    """Fresh weights; knots of numeric fields are quantiles among the items and rows of the given entities."""
    items = np.isin(homes.owner, entities).nonzero()[0]
    rows = np.isin(np.repeat(np.arange(data.events.entity_count), data.events.counts), entities).nonzero()[0]
    contexts, dims = context_table(data), config.dims
    width = 2 * dims + len(contexts) * config.context_dims + len(CANDIDATE_FEATURES) + len(ROW_FEATURES)
    params: Params = {
        **init_embedding_bag("items", _kind_table(data), items, dims, 0.1, g),
        **init_embedding_bag("context", contexts, rows, config.context_dims, 0.1, g),
        **init_mlp("item", (ITEM_INPUTS, dims), g),
        **init_mlp("head", (width, *config.hidden, 1), g),
        **init_mlp("attention.out", (config.attention, 1), g),
        "attention.bias": torch.zeros(config.attention),
    }
    for part, size in (("key", dims), ("candidate", dims), ("product", dims), ("pair", 2)):
        params[f"attention.{part}"] = torch.randn(size, config.attention, generator=g) * (0.5 / dims) ** 0.5
    if config.wide:
        params["wide"] = torch.zeros(len(CANDIDATE_FEATURES), 1)
    # A softmax follows these, which no constant changes.
    del params[f"head.{len(config.hidden)}.bias"], params["attention.out.0.bias"]
    return params


def encode_history(config: InterestConfig, weights: Params, support: Support) -> State:
    """State of T supports: the statistics of `support_summary`, inputs of items [T, C, 12] and the vectors of their
    features, kinds [T, C, D]. Raises ValueError without a catalogue."""
    state = support_summary(support)
    catalogue = support.catalogue
    assert catalogue is not None, "support_summary raises without a catalogue"
    state["inputs"] = _item_inputs(state, catalogue)
    state["kinds"] = _kind_vectors(weights, catalogue, config.dims)
    return state


def candidate_scores(
    config: InterestConfig, weights: Params, state: State, rows: Interactions, candidates: Tensor
) -> Tensor:
    """Scores [T, R, K] of the candidates of each row without dropout; in chunks of rows while nothing is trained, as
    attention is over every pair of candidate and history."""
    if torch.is_grad_enabled() and any(v.requires_grad for v in (*weights.values(), *state.values())):
        return network_scores(config, weights, state, rows, candidates)
    depth = min(config.history, row_history(rows).shape[2]) * (config.attention + config.dims)
    chunk = max(1, PAIR_FLOATS // max(1, len(candidates) * candidates.shape[2] * depth))
    parts = [
        network_scores(config, weights, state, rows.columns(i, i + chunk), candidates[:, i : i + chunk])
        for i in range(0, candidates.shape[1], chunk)
    ]
    return torch.cat(parts, 1) if parts else candidates.float()


def network_scores(
    config: InterestConfig,
    weights: Params,
    state: State,
    rows: Interactions,
    candidates: Tensor,
    generator: torch.Generator | None = None,
    shard: TaskShard | None = None,
) -> Tensor:
    """Scores [T, R, K] of the candidates of each row in one pass; with a generator, dropout of hidden units, drawn for
    all tasks of the meta-batch that the shard is of."""
    tasks, count, width = candidates.shape
    vectors = torch.tanh(linear(state["inputs"], weights["item.0.weight"], weights["item.0.bias"]) + state["kinds"])
    candidate, history = gather_by_task(vectors, candidates), row_history(rows)[:, :, : config.history]
    answer = _attend(weights, vectors, candidate, candidates, history)
    features = candidate_features(state, rows, candidates)
    row_inputs = torch.cat([*_context_vectors(config, weights, rows), row_features(state, rows)], 2)
    row_inputs = row_inputs[:, :, None, :].expand(-1, -1, width, -1)
    x = torch.cat([candidate, answer, row_inputs, features], 3).flatten(1, 2)
    for i in range(len(config.hidden)):
        x = torch.relu(linear(x, weights[f"head.{i}.weight"], weights[f"head.{i}.bias"]))
        x = dropout(x, config.dropout, generator, shard)
    x = _matmul(x, weights[f"head.{len(config.hidden)}.weight"])
    if config.wide:
        x = x + _matmul(features.flatten(1, 2), weights["wide"])
    return x.view(tasks, count, width)


def _attend(weights: Params, vectors: Tensor, candidate: Tensor, candidates: Tensor, history: Tensor) -> Tensor:
    """Attention output [T, R, K, D] of each candidate: a weighted mean of the vectors of its row's history [T, R, H]; 0
    without a history."""
    key = gather_by_task(vectors, history)
    mask = (history >= FIRST)[:, :, None, :]
    order = torch.arange(1, history.shape[2] + 1, device=history.device)
    same = (history[:, :, None, :] == candidates[..., None]).float()
    pair = torch.stack([same, (1 / order).expand_as(same)], 4)
    units = (
        _matmul(key[:, :, None] * candidate[..., None, :], weights["attention.product"])
        + _matmul(pair, weights["attention.pair"])
        + _matmul(key, weights["attention.key"])[:, :, None]
        + _matmul(candidate, weights["attention.candidate"])[..., None, :]
    )
    bias = weights["attention.bias"]
    units = torch.relu(units + (bias if bias.dim() == 1 else bias[:, None, None, None]))
    logits = _matmul(units, weights["attention.out.0.weight"]).squeeze(4)
    weight = torch.softmax(logits.masked_fill(~mask, MASKED_LOGIT), 3) * mask
    return weight @ key


def _context_vectors(config: InterestConfig, weights: Params, rows: Interactions) -> list[Tensor]:
    """Vectors [T, R, .] of the context fields that the network has weights for; 0 where rows lack the field."""
    blank = torch.zeros(*rows.item.shape, config.context_dims, device=rows.item.device)
    vectors = []
    for name in _field_names(weights, "context"):
        value = rows.context.get(name)
        if value is None:
            vectors.append(blank)
            continue
        flat = value.flatten() if value.is_floating_point() else value.flatten()[:, None]
        vectors.append(embed_fields(weights, "context", {name: flat})[0].view(blank.shape))
    return vectors


def _kind_table(data: Dataset) -> FeatureTable:
    """Feature table of items without location and owner."""
    return {k: v for k, v in data.items.items() if k not in (LATITUDE, LONGITUDE, data.schema.home)}


def _field_names(weights: Params, prefix: str) -> list[str]:
    """Names of the fields of an embedding bag, sorted."""
    return sorted({k.split(".")[1] for k in weights if k.startswith(f"{prefix}.")})


def _item_inputs(state: State, catalogue: EntityCatalog) -> Tensor:
    """Inputs [T, C, 12] of each item, of order 1: location east and north of the centre of the catalogue (tens of km),
    its counts in the support, and rows and items nearby."""
    blank = torch.full(catalogue.item.shape, torch.nan, device=catalogue.item.device)
    here = state["located"]
    lat, lon = (torch.where(here, catalogue.features.get(name, blank), 0.0) for name in (LATITUDE, LONGITUDE))
    total = here.sum(1, keepdim=True).clamp(min=1)
    # Longitudes from that of one item, so that a catalogue astride the date line stays together.
    first = lon.gather(1, here.long().argmax(1, keepdim=True))
    lon = torch.where(here, torch.remainder(lon - first + 180, 360) - 180, 0.0)
    north = (lat - lat.sum(1, keepdim=True) / total) * here
    east = (lon - lon.sum(1, keepdim=True) / total) * here * torch.cos(torch.deg2rad(lat))
    columns = [
        east * DEGREE / 10,
        north * DEGREE / 10,
        state["count"].log1p() / 3,
        (state["count"] == 0).float(),
        state["found"].log1p() / 3,
        *(state["near"].log1p() / 3).unbind(2),
        *(state["dense"].log1p() / 3).unbind(2),
        (~here).float(),
    ]
    return torch.stack(columns, 2) * catalogue.mask[:, :, None]


def _kind_vectors(weights: Params, catalogue: EntityCatalog, dims: int) -> Tensor:
    """Sums [T, C, D] of the vectors of each item's features."""
    vectors = torch.zeros(*catalogue.item.shape, dims, device=catalogue.item.device)
    for name in _field_names(weights, "items"):
        value = catalogue.features.get(name)
        if value is not None:
            flat = value.flatten() if value.is_floating_point() else value.flatten(0, 1)
            vectors = vectors + embed_fields(weights, "items", {name: flat})[0].view(vectors.shape)
    return vectors


def _matmul(x: Tensor, weight: Tensor) -> Tensor:
    """x [T, ..., in] times weight [in, out] or, one for each task, [T, in, out]."""
    if weight.dim() == 2:
        return x @ weight
    return (x.flatten(1, -2) @ weight).view(*x.shape[:-1], weight.shape[-1])
