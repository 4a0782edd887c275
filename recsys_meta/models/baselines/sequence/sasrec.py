"""SASRec (Kang & McAuley 2018): a causal transformer over the support, trained to predict the next item.

Trained by sampled softmax with logQ correction instead of one negative a row, which is what makes it a strong baseline
(Klenitskiy & Vasilev 2023; Petrov & Macdonald 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import FIRST, IntArray, Interactions, Params, State, Support
from recsys_meta.models.baselines.base import BaselineConfig, mix_evidence
from recsys_meta.models.baselines.interaction_matrix import TrainingRows, item_counts, log_popularity
from recsys_meta.models.baselines.item_based.item_scores import (
    distinct_weights,
    factor_evidence,
    factor_tables,
    mix_with_popularity,
)
from recsys_meta.models.baselines.sequence.causal_transformer import encode_sequences
from recsys_meta.models.baselines.sequence.next_item_training import train_transformer
from recsys_meta.models.protocols import EvidenceMixture


class SasRec(BaselineConfig):
    """Scores state . item, plus popularity; the state is the transformer's output at the last row of the support.

    Trained on the rows of training entities in the order in which supports are taken: by time, or in a new random order
    in each epoch. `truncate` trains on pieces of ten rows on average, cut at random places anew in every epoch, so that
    sequences are as short as supports; otherwise on whole sequences (pieces of at most `length` rows). Supports are cut
    to their last `length` items; of an item that recurs the last row counts. An empty support scores popularity.
    """

    name: ClassVar[str] = "sasrec"
    reads_order: ClassVar[bool] = True
    fit_fields: ClassVar[frozenset[str]] = frozenset(
        {"dims", "blocks", "dropout", "negatives", "length", "truncate", "rate", "batch_rows", "steps", "seed"}
    )

    dims: int = Field(default=64, ge=1)
    blocks: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    negatives: int = Field(default=256, ge=1, description="items drawn for each step, shared by its rows")
    length: int = Field(default=200, ge=1, description="most rows of a sequence")
    truncate: bool = False
    rate: float = Field(default=1e-3, gt=0, description="learning rate of Adam")
    batch_rows: int = Field(default=2048, ge=1, description="rows of a training step, about")
    steps: int = Field(default=10_000, ge=1, description="most training steps")
    seed: int = 0
    popularity: float = Field(default=0.3, ge=0)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {"truncate": (False, True), "popularity": (0.0, 0.3, 1.0, 3.0, 10.0)}

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        rows = TrainingRows.of(data, entities)
        keep = rows.item >= FIRST
        entity, item = torch.from_numpy(rows.task[keep]), torch.from_numpy(rows.item[keep])
        params = train_transformer(self, entity, item, rows.catalogue, is_ordered=data.schema.order == "time")
        return {**params, "log_popularity": log_popularity(item_counts(rows.binary()))}

    def body(self, params: Params) -> Params:
        """Return the parameters with the network in float64.

        In float32 the last bits of a state would depend on who else is in the batch.
        """
        return {k: v if k in ("items", "log_popularity") else v.double() for k, v in params.items()}

    def adapt(self, body: Params, support: Support) -> State:
        item, count = latest_items(support.rows, self.length)
        states = encode_sequences(body, item, self.blocks)
        last = (count - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[2])
        return {"vector": (states.gather(1, last)[:, 0] * (count > 0)[:, None]).to(body["items"].dtype)}

    def rank(self, body: Params, state: State) -> Tensor:
        return mix_with_popularity(state["vector"] @ body["items"].T, body["log_popularity"], self.popularity)

    def mixture_tables(self, body: Params) -> Params:
        return factor_tables(body)

    def mixture(self, body: Params, state: State) -> EvidenceMixture:
        return mix_evidence(factor_evidence(body, state["vector"]), self.popularity)


def latest_items(rows: Interactions, length: int) -> tuple[Tensor, Tensor]:
    """Select the last `length` known items of T supports, in their order: ids [T, S], padded on the right, and counts.

    Of an item that recurs the last row counts, as when serving reads events.
    """
    backwards = Interactions(rows.item.flip(1), rows.label.flip(1), rows.mask.flip(1))
    keep = distinct_weights(backwards).flip(1) > 0
    count = keep.sum(1)
    column = keep.cumsum(1) - 1 - (count - length).clamp(min=0)[:, None]
    width = max(1, min(length, rows.item.shape[1]))
    # Rows that are left out go to a last column, which is cut off.
    target = torch.where(keep & (column >= 0), column, width)
    item = rows.item.new_zeros(len(rows.item), width + 1).scatter(1, target, rows.item)
    return item[:, :width], count.clamp(max=length)
