"""Pretraining of the base model: all rows of the past entities, in random order, in mini-batches of single rows.

Each past entity has an ID embedding of its own here; a new one has none. Vectorized over the rows of a mini-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.feature_tensors import lookup_rows
from recsys_meta.core.types import IntArray, Params
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.functional.embeddings import is_buffer
from recsys_meta.models.functional.regularization import dropout, mask_features
from recsys_meta.models.learners.warm_up import ctr_models
from recsys_meta.models.learners.warm_up.ctr_models import ENTITY, ClickConfig

CHUNK = 65_536
"""Rows that are computed together without a gradient."""


@dataclass(frozen=True)
class PretrainingRows:
    """Rows of P past entities in long form: entity (0 to P - 1), item and label [N]; context name -> [N]; features of
    the entities, name -> [P, ...]."""

    entity: Tensor
    item: Tensor
    label: Tensor
    context: Mapping[str, Tensor]
    features: Mapping[str, Tensor]

    @classmethod
    def of(cls, data: Dataset, entities: IntArray) -> PretrainingRows:
        """Rows of some entities of a data set."""
        index = EventIndex.of(data)
        entity, position = index.flatten(torch.as_tensor(entities))
        context = {k: v[position] for k, v in index.context.items()}
        numbers = {k: v if v.is_floating_point() else v.long() for k, v in context.items()}
        item = index.item[position].long()
        return cls(entity, item, index.label[position], numbers, lookup_rows(data.entities, entities))

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Entity, item, label and context of some rows."""
        return self.entity[rows], self.item[rows], self.label[rows], {k: v[rows] for k, v in self.context.items()}


def pretrain(config: ClickConfig, data: Dataset, entities: IntArray, g: torch.Generator) -> Params:
    """Train the base model: its parameters, the ID embeddings of past entities, 'past.id' [P, D], and the numbers of
    those entities, 'past.entity' [P], ascending."""
    entities = np.sort(np.asarray(entities, np.int64))
    past = PretrainingRows.of(data, entities)
    level = float(past.label.mean()) if len(past.label) else 0.5
    params = ctr_models.init_ctr_model(config, data, entities, level, g)
    params["past.id"] = torch.randn(len(entities), config.dims, generator=g) * config.scale
    leaves = [params[k].requires_grad_() for k in sorted(params) if _is_trained(k)]
    with torch.enable_grad():
        optimiser = torch.optim.AdamW(leaves, lr=config.base_rate, weight_decay=config.base_decay, fused=True)
        for _ in range(config.base_epochs):
            order = torch.randperm(len(past.label), generator=g)
            for rows in torch.split(order, config.base_batch):
                optimiser.zero_grad(set_to_none=True)
                pretraining_loss(config, params, past, rows, g).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    result = {k: v.detach() for k, v in params.items()}
    result["past.entity"] = torch.from_numpy(entities)
    return result | {"base.neutral": _mean_context(result, past)}


def _is_trained(key: str) -> bool:
    return not is_buffer(key) and key != "base.neutral"


def pretraining_loss(
    config: ClickConfig, params: Params, past: PretrainingRows, rows: Tensor, g: torch.Generator
) -> Tensor:
    """Mean log-loss of some rows, each a task of one row."""
    entity, item, label, context = past.at(rows)
    features = mask_features({k: v[entity] for k, v in past.features.items()}, config.unknown, g)
    item = mask_features({"item": item}, config.unknown, g)["item"]
    features_of_entities = ctr_models.fields_of(params, ENTITY, features).expand(len(rows), -1, -1)
    fields = [
        torch.cat([params["past.id"][entity][:, None], features_of_entities], 1),
        ctr_models.item_fields(params, item),
        ctr_models.context_fields(params, context, rows.shape) if context else features_of_entities[:, :0],
    ]
    vectors = dropout(torch.cat(fields, 1), config.base_dropout, g)
    entity_vectors, row_vectors = vectors[:, : fields[0].shape[1]], vectors[:, None, fields[0].shape[1] :]
    entity_side = ctr_models.field_contribution(config, params, entity_vectors, 0)
    row_side = ctr_models.field_contribution(config, params, row_vectors, entity_vectors.shape[1])
    logit = ctr_models.ctr_logits(config, params, entity_side, row_side)[:, 0]
    return functional.binary_cross_entropy_with_logits(logit, label)


def _mean_context(params: Params, past: PretrainingRows) -> Tensor:
    """Mean vector [F, D] of every context field over past rows."""
    total = torch.zeros_like(params["base.neutral"])
    if not len(total) or not len(past.label):
        return total
    for rows in torch.split(torch.arange(len(past.label)), CHUNK):
        _, _, _, context = past.at(rows)
        total += ctr_models.context_fields(params, context, rows.shape).sum(0)
    return total / len(past.label)
