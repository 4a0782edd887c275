"""ItemKNN by content: similarity of the features of items to those of the support's items (Lops et al. 2011)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import FloatArray, IntArray, Params, State, Support
from recsys_meta.models.baselines.base import BaselineConfig, mix_evidence
from recsys_meta.models.baselines.interaction_matrix import TrainingMatrix, log_popularity
from recsys_meta.models.baselines.item_based.item_scores import distinct_weights, evidence_tables, mix_with_popularity
from recsys_meta.models.functional.host_reads import is_readable
from recsys_meta.models.functional.item_content import ItemContent
from recsys_meta.models.protocols import EvidenceMixture


class ContentItemKNN(BaselineConfig):
    """Score of item i: sum over the support's items s of the cosine of their features, plus popularity.

    A feature value weighs its inverse document frequency to the power `rarity`; numbers are in bins of equal content.
    An item has at most `values` values, the rarest. Without item features this is popularity.
    """

    name: ClassVar[str] = "content-itemknn"
    fit_fields: ClassVar[frozenset[str]] = frozenset({"values"})
    body_fields: ClassVar[frozenset[str]] = frozenset({"rarity"})

    rarity: float = Field(default=1.0, ge=0)
    popularity: float = Field(default=0.3, ge=0)
    values: int = Field(default=64, ge=1)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {"rarity": (0.0, 0.5, 1.0), "popularity": (0.0, 0.3, 1.0, 3.0)}

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        """Features of all items: column and share [C, L] of each value, and the inverse document frequency [V] among
        the items of the training entities."""
        self.check_objective(data)
        counts = TrainingMatrix.of(data, entities).counts
        content = ItemContent.of(data, np.flatnonzero(counts.numpy()))
        parts = [content.rows([name], rarity=0.0) for name in content.names]
        matrix = sp.hstack(parts).tocsr() if parts else sp.csr_matrix((data.catalogue, 1), dtype=np.float32)
        rare = _document_frequency(matrix, content.known)
        column, share = _rarest_values(matrix, rare, self.values)
        tables = {"column": torch.from_numpy(column), "share": torch.from_numpy(share), "rare": torch.from_numpy(rare)}
        return tables | {"log_popularity": log_popularity(counts)}

    def body(self, params: Params) -> Params:
        """Column and weight [C, L] of each value, items having length 1; and the same by value: the items `item` and
        their weights `item_weight` of value v stand at `start[v]` to `start[v + 1]`."""
        column = params["column"]
        weight = functional.normalize(params["share"] * params["rare"][column] ** self.rarity, dim=1)
        item, place = weight.nonzero(as_tuple=True)
        value, order = column[item, place].sort(stable=True)
        start = torch.searchsorted(value, torch.arange(len(params["rare"]) + 1, dtype=torch.int32))
        by_value = {"start": start, "item": item[order].int(), "item_weight": weight[item, place][order]}
        return by_value | {"column": column, "weight": weight, "log_popularity": params["log_popularity"]}

    def adapt(self, body: Params, support: Support) -> State:
        return {"item": support.rows.item, "weight": distinct_weights(support.rows)}

    def rank(self, body: Params, state: State) -> Tensor:
        return mix_with_popularity(_evidence(body, state), body["log_popularity"], self.popularity)

    def mixture_tables(self, body: Params) -> Params:
        return evidence_tables(body)

    def mixture(self, body: Params, state: State) -> EvidenceMixture:
        return mix_evidence(_evidence(body, state), self.popularity)


def _evidence(body: Params, state: State) -> Tensor:
    """Sum the cosines with the support's items, [T, C]: the product of each item with the sum of the support's."""
    column = body["column"][state["item"]].flatten(1).long()
    weight = (body["weight"][state["item"]] * state["weight"][:, :, None]).flatten(1)
    profile = weight.new_zeros(len(column), len(body["start"]) - 1).scatter_add(1, column, weight)
    if is_readable(profile):
        return _sparse_product(profile, body)
    columns = profile.T.contiguous()
    cosines: Tensor = functional.embedding_bag(body["column"], columns, mode="sum", per_sample_weights=body["weight"])
    return cosines.T.contiguous()


def _sparse_product(profile: Tensor, body: Params) -> Tensor:
    """Multiply profiles [T, V] with the items, [T, C]. Only the items of values that a profile has are looked at: for
    one newcomer of a catalogue with many values a tenth of the time."""
    by_value = sp.csr_matrix(
        (body["item_weight"].numpy(), body["item"].numpy(), body["start"].int().numpy()),
        shape=(profile.shape[1], len(body["column"])),
    )
    return torch.from_numpy((sp.csr_matrix(profile.numpy()) @ by_value).toarray())


def _document_frequency(matrix: sp.csr_matrix, known: IntArray) -> FloatArray:
    """Compute the log of the inverse share of the known items that have each value, [V] float32."""
    count = np.asarray((matrix[known] > 0).sum(0)).ravel()
    return np.log((1 + len(known)) / (1 + count)).astype(np.float32)


def _rarest_values(matrix: sp.csr_matrix, rarity: FloatArray, most: int) -> tuple[IntArray, FloatArray]:
    """Take the columns [C, L] int32 and shares [C, L] of each row's at most `most` values, the rarest first; places
    that are left have share 0."""
    count = np.diff(matrix.indptr)
    row = np.repeat(np.arange(len(count)), count)
    order = np.lexsort((-rarity[matrix.indices], row))
    place = np.arange(len(order)) - matrix.indptr[row]
    fits = place < most
    shape = (len(count), int(min(most, count.max(initial=1))))
    column, share = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    column[row[fits], place[fits]] = matrix.indices[order[fits]]
    share[row[fits], place[fits]] = matrix.data[order[fits]]
    return column, share
