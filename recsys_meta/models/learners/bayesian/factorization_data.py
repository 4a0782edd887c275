"""Past rows as inputs of a factorization: design matrices of the features of entities, items and rows.

The same feature fields serve later as embedding bags (`embeddings.embed_fields`), whose tables start at the effects
that a regression on these columns has found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset, FeatureColumn, FeatureTable
from recsys_meta.core.types import FIRST, FloatArray, IntArray, Params
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.functional.embeddings import init_embedding_bag
from recsys_meta.models.functional.feature_tables import context_table, limit_cardinality
from recsys_meta.models.functional.interpolation import encode_numbers

PER_DIMENSION = 3
"""Rows of the rarer label that an average item must have for each factor."""


@dataclass(frozen=True)
class InteractionRows:
    """Rows in long form: entity [N] counted from 0, item [N] padded ids, label [N], and inputs [N, P] of fixed
    effects."""

    entity: IntArray
    item: IntArray
    label: FloatArray
    inputs: sp.csr_matrix
    entities: int
    catalogue: int

    @property
    def affordable(self) -> int:
        """Number of factors that the rows can determine: few where items are rare, or labels hardly differ."""
        rarer = min(self.label.sum(), len(self.label) - self.label.sum())
        return int(rarer / (PER_DIMENSION * max(1, len(np.unique(self.item)))))

    def table(self, values: FloatArray) -> sp.csr_matrix:
        """Values [N] as a matrix [entities, catalogue]; rows that occur twice add up."""
        return sp.csr_matrix((values, (self.entity, self.item)), shape=(self.entities, self.catalogue))


@dataclass(frozen=True)
class FeatureFields:
    """A table of features and the knots of its numeric fields, quantiles among some of its rows."""

    table: FeatureTable
    knots: Mapping[str, Tensor]

    @classmethod
    def of(cls, table: FeatureTable, rows: IntArray, most: int | None = None) -> FeatureFields:
        """Fields of a table with at most `most` values (all if None); numeric fields always."""
        fields = dict(sorted((table if most is None else limit_cardinality(table, most)).items()))
        bag = init_embedding_bag("", fields, rows, 0, 0.0, torch.Generator())
        return cls(fields, {k: bag[f".{k}.knots"] for k, v in fields.items() if v.numeric})

    def design(self, rows: int) -> sp.csr_matrix:
        """Design matrix [rows, F]: a constant 1, then for each field the share of each of its values, or the
        interpolation weights of its number; missing values have zeros."""
        parts = [sp.csr_matrix(np.ones((rows, 1), np.float32))]
        for name, column in self.table.items():
            if column.indptr is None:
                number = torch.from_numpy(np.array(column.values, np.float32))
                parts.append(sp.csr_matrix(encode_numbers(number, self.knots[name])[:, :-1].numpy()))
                continue
            count = np.diff(column.indptr)
            share = np.repeat(1 / np.maximum(count, 1), count).astype(np.float32)
            value = np.asarray(column.values, np.int64)
            parts.append(sp.csr_matrix((share, value, column.indptr), (rows, column.size)))
        return sp.hstack(parts, format="csr").astype(np.float32)

    def bags(self, prefix: str, effects: Tensor) -> Params:
        """Tables of embedding bags from effects [F, D] of the columns of `design`; that of the constant is left out."""
        tables, at = {}, 1
        for name, column in self.table.items():
            key = f"{prefix}.{name}"
            width = len(self.knots[name]) if column.numeric else column.size
            part = effects[at : at + width]
            at += width
            if column.numeric:
                tables[f"{key}.knots"] = self.knots[name].clone()
                tables[f"{key}.weight"] = torch.cat([part, part.new_zeros(1, part.shape[1])])  # the last: missing
            else:
                tables[key] = part.clone()
        return tables


@dataclass(frozen=True)
class FactorizationData:
    """Inputs of a factorization: rows, and the fields and design matrices of entities [entities, F], items [C, G] and
    contexts."""

    rows: InteractionRows
    entity_fields: FeatureFields
    entity_design: sp.csr_matrix
    item_design: sp.csr_matrix
    context_fields: FeatureFields

    @classmethod
    def of(cls, data: Dataset, entities: IntArray, most: int) -> FactorizationData:
        """Inputs from the rows of some entities. Features of more than `most` values are left out: their values are too
        rare. The log of an item's number of events is one of its features, "met"."""
        entities = np.asarray(entities, np.int64)
        task, rows_of_entities = EventIndex.of(data).flatten(torch.from_numpy(entities))
        position = rows_of_entities.numpy()
        item = np.asarray(data.events.item[position], np.int64)
        label = np.asarray(data.events.label[position], np.float32)
        log_count = np.log1p(np.bincount(item, minlength=data.catalogue)).astype(np.float32)
        real_items = np.arange(FIRST, data.catalogue)
        items = FeatureFields.of({**data.items, "met": FeatureColumn("met", log_count)}, real_items, most)
        entity_fields = FeatureFields.of(data.entities, entities, most)
        context = FeatureFields.of(context_table(data), position)
        inputs = context.design(len(data.events))[position] if context.table else sp.csr_matrix((len(item), 0))
        rows = InteractionRows(task.numpy(), item, label, inputs.astype(np.float32), len(entities), data.catalogue)
        design = entity_fields.design(data.events.entity_count)[entities]
        return cls(rows, entity_fields, design, items.design(data.catalogue), context)
