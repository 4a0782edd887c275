"""A deep interest network for items without ids (Zhou et al. 2018, in the shape of Chen et al. 2021).

A candidate attends to the actor's history, and a perceptron scores candidate, attention output, context and the
features of `choice_features`. The items of a new entity were never seen, so no item has an id: its vector is made from
its location in the catalogue, its features, and the statistics of the support. Of the products [k, v, k - v, k * v] of
key and candidate the attention gets three, since k - v is linear in both.

An entity may have a vector z of its own, made from its features; it enters the perceptron's first layer.

Weights may carry a leading T: then each task has its own. Shape letters as in `core.types`; D is the size of item
vectors, Z that of z.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset, FeatureTable, ItemOwnership
from recsys_meta.core.schema import LATITUDE, LONGITUDE
from recsys_meta.core.types import FIRST, EntityCatalog, IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.models.functional.choice_features import (
    CANDIDATE_FEATURES,
    ROW_FEATURES,
    candidate_features,
    row_features,
    row_history,
    support_summary,
)
from recsys_meta.models.functional.choice_statistics import gather_by_task
from recsys_meta.models.functional.embeddings import embed_fields, init_embedding_bag, init_mlp, linear, select_fields
from recsys_meta.models.functional.feature_tables import context_table
from recsys_meta.models.functional.masking import MASKED_LOGIT
from recsys_meta.models.protocols import PredictorConfig

ITEM_INPUTS = 12
"""Numbers from which an item's vector is made, beside its features."""
DEGREE = 111.2
"""Length of a degree of latitude in km."""
PAIR_FLOATS = 20_000_000
"""Activations of the attention that are held at once while nothing is trained."""
TABLE_FLOATS = 50_000_000
"""Attention logits of pairs of items that are held at once while nothing is trained."""


class InterestConfig(PredictorConfig):
    """Configuration of the network."""

    dims: int = Field(default=32, ge=1, description="length of item vectors")
    attention: int = Field(default=50, ge=1, description="width of the attention's hidden layer")
    hidden: tuple[int, ...] = Field(default=(64, 64), description="widths of the hidden layers")
    context_dims: int = Field(default=8, ge=1, description="length of the vector of each context field")
    history: int = Field(default=20, ge=1, description="items that attention goes back")
    wide: bool = Field(default=True, description="the features of candidates also count directly, as in a logit")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="dropout of hidden units, while training")
    entity_dims: int = Field(default=0, ge=0, description="length of the entity's own vector; 0: it has none")

    @property
    def last_layer(self) -> tuple[str, ...]:
        """Weights of all that a score is a sum of."""
        wide = ("wide",) if self.wide else ()
        return (f"head.{len(self.hidden)}.weight", *wide)

    @property
    def hidden_layers(self) -> tuple[str, ...]:
        """Weights of the perceptron below the last layer."""
        return tuple(f"head.{i}.{kind}" for i in range(len(self.hidden)) for kind in ("weight", "bias"))


LOWER_LAYERS = (
    *(f"attention.{part}" for part in ("bias", "key", "candidate", "product", "pair", "out.0.weight")),
    "item.0.weight",
    "item.0.bias",
)
"""Weights below the perceptron: those of the attention and of item vectors."""


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
    if config.entity_dims:
        params |= init_embedding_bag("entity", data.entities, entities, config.entity_dims, 0.1, g)
        params["start"] = torch.randn(config.entity_dims, generator=g) * 0.1
        params["first.entity"] = torch.randn(config.entity_dims, config.hidden[0], generator=g) * (2 / width) ** 0.5
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


def entity_vectors(weights: Params, support: Support) -> Tensor:
    """Vectors z [T, Z] of entities before any step, from their features alone."""
    known = select_fields(weights, "entity", support.features)
    return torch.stack([weights["start"].expand(support.size, -1), *embed_fields(weights, "entity", known)]).sum(0)


class ChoiceInputs(NamedTuple):
    """Inputs that do not depend on weights, for candidates [T, R, K]: features [T, R, K, F] of the candidates and
    [T, R, G] of the rows."""

    candidates: Tensor
    features: Tensor
    row_features: Tensor

    @classmethod
    def of(cls, state: State, rows: Interactions, candidates: Tensor) -> ChoiceInputs:
        """Inputs of the candidates of each row."""
        return cls(candidates, candidate_features(state, rows, candidates), row_features(state, rows))


def candidate_scores(
    config: InterestConfig, weights: Params, state: State, rows: Interactions, candidates: Tensor
) -> Tensor:
    """Scores [T, R, K] of the candidates of each row without dropout; in chunks of rows while nothing is trained, as
    attention is over every pair of candidate and history."""
    if torch.is_grad_enabled() and any(v.requires_grad for v in (*weights.values(), *state.values())):
        return network_scores(config, weights, state, rows, ChoiceInputs.of(state, rows, candidates))
    tasks, count, width = candidates.shape
    depth, items = min(config.history, row_history(rows).shape[2]), state["listed"].shape[1]
    # Rows that rank whole catalogues meet the same pairs of items again and again.
    has_table = items**2 <= count * width and tasks * depth * items**2 <= TABLE_FLOATS
    table = pair_logits(weights, item_vectors(weights, state), depth) if has_table else None
    floats = depth * (4 if has_table else config.attention + config.dims)
    chunk = max(1, PAIR_FLOATS // max(1, tasks * width * floats))
    parts = []
    for i in range(0, count, chunk):
        some = rows.columns(i, i + chunk)
        inputs = ChoiceInputs.of(state, some, candidates[:, i : i + chunk])
        parts.append(network_scores(config, weights, state, some, inputs, table=table))
    return torch.cat(parts, 1) if parts else candidates.float()


def network_scores(
    config: InterestConfig,
    weights: Params,
    state: State,
    rows: Interactions,
    inputs: ChoiceInputs,
    kept_units: Sequence[Tensor] = (),
    table: Tensor | None = None,
) -> Tensor:
    """Scores [T, R, K] of the candidates of each row in one pass; with dropout where `draw_kept_units` says which units
    are kept. `table`: the attention's logits, of `pair_logits`, where they are known."""
    candidates, features, of_rows = inputs
    tasks, count, width = candidates.shape
    vectors = item_vectors(weights, state)
    candidate, history = gather_by_task(vectors, candidates), row_history(rows)[:, :, : config.history]
    if table is None:
        logits = _attention_logits(weights, gather_by_task(vectors, history), candidate, candidates, history)
    else:
        logits = _look_up(table, candidates, history)
    answer = _attend(logits, vectors, history)
    row_inputs = torch.cat([*_context_vectors(config, weights, rows), of_rows], 2)
    row_inputs = row_inputs[:, :, None, :].expand(-1, -1, width, -1)
    x = torch.cat([candidate, answer, row_inputs, features], 3).flatten(1, 2)
    for i in range(len(config.hidden)):
        bias = weights[f"head.{i}.bias"]
        if not i and "z" in state:
            bias = bias + state["z"] @ weights["first.entity"]
        x = torch.relu(linear(x, weights[f"head.{i}.weight"], bias))
        if kept_units:
            x = x * kept_units[i] / (1 - config.dropout)
    x = _matmul(x, weights[f"head.{len(config.hidden)}.weight"])
    if config.wide:
        x = x + _matmul(features.flatten(1, 2), weights["wide"])
    return x.view(tasks, count, width)


def draw_kept_units(
    config: InterestConfig, batch: TaskBatch, candidates: Tensor, generator: torch.Generator
) -> list[Tensor]:
    """Masks [T, R * K, H] of the hidden units that dropout keeps, of each layer, for candidates [T, R, K] of the
    queries. They are drawn for all tasks of a meta-batch: each part gets what it would get in the whole."""
    if not config.dropout:
        return []
    rows = candidates.shape[1] * candidates.shape[2]
    masks = []
    for width in config.hidden:
        shape = (len(batch.whole.entity), rows, width)
        uniform = batch.own(torch.rand(shape, generator=generator, device=generator.device))
        masks.append((uniform >= config.dropout).to(candidates.device))
    return masks


def item_vectors(weights: Params, state: State) -> Tensor:
    """Vectors [T, C, D] of the items of each catalogue."""
    return torch.tanh(linear(state["inputs"], weights["item.0.weight"], weights["item.0.bias"]) + state["kinds"])


def _attend(logits: Tensor, vectors: Tensor, history: Tensor) -> Tensor:
    """Attention output [T, R, K, D] of each candidate: a mean of the vectors of its row's history [T, R, H], weighted
    by logits [T, R, K, H]; 0 without a history."""
    mask = (history >= FIRST)[:, :, None, :]
    weight = torch.softmax(logits.masked_fill(~mask, MASKED_LOGIT), 3) * mask
    return weight @ gather_by_task(vectors, history)


def _attention_logits(weights: Params, key: Tensor, candidate: Tensor, candidates: Tensor, history: Tensor) -> Tensor:
    """Logits [T, R, K, H] of candidates, with vectors [T, R, K, D], for the history of their rows, [T, R, H, D]."""
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
    return _matmul(units, weights["attention.out.0.weight"]).squeeze(4)


def pair_logits(weights: Params, vectors: Tensor, depth: int) -> Tensor:
    """Logits [T, C, C, H] of the attention of each item of a catalogue, with vectors [T, C, D], to each other one at
    each of `depth` places of a history."""
    tasks, items, _ = vectors.shape
    same_weight, place_weight = (x.reshape(-1, 1, 1, x.shape[-1]) for x in weights["attention.pair"].unbind(-2))
    bias = weights["attention.bias"].reshape(same_weight.shape)
    keys = _matmul(vectors, weights["attention.key"])[:, None] + bias
    own = _matmul(vectors, weights["attention.candidate"])[:, :, None]
    every = torch.arange(items, device=vectors.device)
    parts = []
    for some in torch.split(every, max(1, PAIR_FLOATS // (tasks * items * bias.shape[-1]))):
        products = vectors[:, some, None] * vectors[:, None]
        units = _matmul(products, weights["attention.product"]) + keys + own[:, some]
        units = units + (some[:, None] == every)[..., None] * same_weight
        at_places = (torch.relu(units + place_weight / place) for place in range(1, depth + 1))
        logits = [_matmul(x, weights["attention.out.0.weight"]) for x in at_places]
        parts.append(torch.cat(logits, 3))
    return torch.cat(parts, 1)


def _look_up(table: Tensor, candidates: Tensor, history: Tensor) -> Tensor:
    """Logits [T, R, K, H] of candidates for the history of their rows, from those of all pairs."""
    tasks, items, _, depth = table.shape
    place = torch.arange(history.shape[2], device=history.device)
    number = (candidates[..., None] * items + history[:, :, None]) * depth + place
    return table.view(tasks, -1).gather(1, number.flatten(1)).view(number.shape)


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
