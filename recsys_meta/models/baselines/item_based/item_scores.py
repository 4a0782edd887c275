"""Scores of the catalogue from the items of a support, for the item-item baselines.

A state holds the support itself as positions in the dense item-item matrix and weights; unknown items, items outside
the matrix and repetitions have weight 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, FloatArray, IntArray, Interactions, Params, State
from recsys_meta.models.baselines.base import mix_evidence
from recsys_meta.models.functional.host_reads import is_readable
from recsys_meta.models.functional.linear_algebra import batch_invariant_product
from recsys_meta.models.protocols import EvidenceMixture


def distinct_weights(rows: Interactions) -> Tensor:
    """Return the weight [T, S] float32 of each row: 1 for the first row of every known item, else 0."""
    is_new_item = rows.is_new_item
    if not is_readable(is_new_item):
        return is_new_item.to(rows.label.dtype)
    return torch.from_numpy(is_new_item.numpy().astype(np.float32))


def gather_vectors(table: Tensor, rows: Interactions) -> Tensor:
    """Gather the vectors [T, S, D] of the rows' items from a table [C, D]. Not differentiated."""
    if not is_readable(table):
        return table[rows.item]
    return torch.from_numpy(table.detach().numpy().take(rows.item.numpy(), 0))  # for one entity half of torch's time


def locate_support(body: Params, rows: Interactions) -> State:
    """Return the rows as positions in the item-item matrix: "place" [T, S] int64, "weight" [T, S]."""
    position = body["place"][rows.item]
    weight = (rows.is_new_item & (position >= 0)).to(rows.label.dtype)
    return {"place": position.clamp_(min=0), "weight": weight}


def gather_scores(table: Tensor, position: Tensor, weight: Tensor) -> Tensor:
    """Sum the rows position [T, S] of table [M, M] with weight [T, S], [T, M].

    Nothing of size T x S x M is allocated.
    """
    if position.shape[1] == 0 or not len(table):
        return table.new_zeros(len(position), table.shape[1])
    tasks, size = position.shape
    offsets = torch.arange(0, tasks * size, size, device=position.device)
    # Below `nn.functional`, whose checks take as long as the sum for one entity.
    flat = position.reshape(-1), offsets, False, 0, False, weight.reshape(-1)
    scores: Tensor = torch.embedding_bag(table, *flat)[0]
    return scores


def scatter_scores(values: Tensor, items: Tensor, catalogue: int) -> Tensor:
    """Write the values [T, M] of items [M] into scores [T, C] of the whole catalogue; the others score 0."""
    if len(items) == catalogue:
        return values
    return values.new_zeros(len(values), catalogue).index_copy(1, items, values)


def mix_with_popularity(evidence: Tensor, log_popularity: Tensor, weight: float) -> Tensor:
    """Divide evidence [T, C] by its standard deviation over the catalogue and add weight times log popularity [C].

    Constant evidence (an empty support, or unknown items only) leaves popularity with weight 1, whatever the weight.
    """
    catalog_scores = evidence[:, FIRST:]
    count = max(catalog_scores.shape[1], 1)
    deviation = catalog_scores - catalog_scores.sum(1, keepdim=True) / count
    scale = torch.linalg.vector_norm(deviation, dim=1, keepdim=True) / count**0.5
    flat = scale <= 1e-6 * torch.linalg.vector_norm(catalog_scores, dim=1, keepdim=True)
    z_scores = (evidence / scale.clamp(min=1e-30)).masked_fill(flat, 0.0)
    scores: Tensor = z_scores + torch.where(flat, 1.0, weight) * log_popularity
    return scores


def evidence_tables(body: Params) -> Params:
    """Tables of the mixtures of evidence with log popularity; see `MixturePredictor`."""
    return {"mixture/popularity": body["log_popularity"]}


def factor_tables(body: Params) -> Params:
    """Tables of `evidence_tables`, and factors [D, C], the items' vectors side by side: a product reads them twice as
    fast as it reads vectors one below the other."""
    return {**evidence_tables(body), "mixture/factors": body["items"].T.contiguous()}


def factor_evidence(body: Params, vector: Tensor) -> Tensor:
    """Evidence vector [T, D] @ items, [T, C]."""
    return batch_invariant_product(vector, body["mixture/factors"])


class FactorEvidence:
    """Part of the baselines whose evidence is a product of a vector with those of the items (`FactorPredictor`)."""

    popularity: float

    def factor_table(self, body: Params) -> Tensor | None:
        """Factors [D, C] of the evidence."""
        return body.get("mixture/factors")

    def query(self, body: Params, state: State) -> Tensor:
        """Vectors [T, D]."""
        return state["vector"]

    def item_evidence(self, body: Params, state: State, items: IntArray) -> FloatArray:
        """Evidence of items [T, K]."""
        evidence: FloatArray = np.vecdot(body["items"].numpy()[items], state["vector"].numpy()[:, None])
        return evidence

    def mix(self, state: State, evidence: Tensor) -> EvidenceMixture:
        """Mixture of evidence [T, ...] with popularity."""
        return mix_evidence(evidence, self.popularity)
