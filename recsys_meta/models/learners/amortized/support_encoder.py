"""Support encoder: the common part of learners that compute an entity's state from its support in one pass.

Item vectors e_i = E_i + W f_i [V] and entity vectors z0 = v + U f_u [V] come from ids and features; where labels are
predicted, e_i ends in a constant 1, so that the last coordinate of z is the entity's own level. A method says how the
rows change z0 (`encode`) and, if a dot product is not its way, how a state scores items (`pair_scores`).

A row is met as its vector and its *residual*: 1 in a ranking, else what the start leaves unexplained of the label. V is
the length of a vector, N a number of items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.models.functional.embeddings import (
    catalogue_features,
    embed_fields,
    init_embedding_bag,
    is_buffer,
    item_features,
    require_item_features,
)
from recsys_meta.models.functional.item_bias_prior import item_bias_prior
from recsys_meta.models.functional.losses import logistic_loss, mean_over_tasks, softmax_loss, squared_error
from recsys_meta.models.functional.masking import mask_reserved_ids, mask_support_items, mask_unknown_items
from recsys_meta.models.functional.regularization import dropout
from recsys_meta.models.functional.sampled_softmax import draw_negatives, init_negatives, sampled_softmax_loss
from recsys_meta.models.protocols import ParamGroup, PredictorConfig

SCORE_FLOATS = 4_000_000
"""Bound on the numbers that scoring the catalogue holds at once, where a method compares pairs."""


class SupportEncoderConfig(PredictorConfig):
    """Configuration that all support encoders share."""

    objective: Literal["ranking", "rating", "click"] = Field(default="ranking", description="objective of the data set")
    dims: int = Field(default=64, ge=1, description="length of vectors")
    item_id: bool = Field(default=True, description="items have vectors of their own, beside those of their features")
    scale: float = Field(default=0.1, gt=0, description="deviation of fresh embeddings")
    dropout: float = Field(default=0.3, ge=0, lt=1, description="dropout of item vectors, while training")
    decay: float = Field(default=1e-2, ge=0, description="weight decay of vectors and layers")
    size_weight: float = Field(default=0.5, ge=0, le=1, description="a task weighs (query rows)^this")
    negatives: int = Field(default=0, ge=0, description="sampled softmax with so many; 0: the whole catalogue")
    steps: ClassVar[int] = 1

    @property
    def width(self) -> int:
        """Length V of item and entity vectors."""
        return self.dims + (self.objective != "ranking")


EncoderConfig = TypeVar("EncoderConfig", bound=SupportEncoderConfig)


class EncodedRows(NamedTuple):
    """Support as a method meets it: start [T, V], item vectors [T, S, V], residual and mask [T, S], and the weight
    [T, S] of each row in the mean over a task's rows."""

    start: Tensor
    vectors: Tensor
    residual: Tensor
    mask: Tensor
    weight: Tensor

    def mean_vector(self) -> Tensor:
        """Mean [T, V] of the rows' vectors times their residuals; 0 without rows."""
        return torch.einsum("ts,tsv->tv", self.weight * self.residual, self.vectors)


class SupportEncoder(ABC, Generic[EncoderConfig]):
    """Base class of the learners of this package. A method defines `name`, `Config`, `encode` and what it needs of the
    other hooks."""

    name: ClassVar[str]
    Config: ClassVar[type[SupportEncoderConfig]]
    config: EncoderConfig
    reads_order: ClassVar[bool] = False
    objectives: ClassVar[frozenset[Objective]] = frozenset({"ranking", "rating", "click"})

    def __init__(self, config: EncoderConfig | None = None) -> None:
        self.config = self.Config() if config is None else config  # type: ignore[assignment]

    @abstractmethod
    def encode(self, body: Params, rows: EncodedRows) -> State:
        """State of T entities, `z` [T, V] among it. For an entity without rows z must be its start."""

    def init_method(self, generator: torch.Generator) -> Params:
        """Parameters of the method itself; those that begin with `rate.` or `log_` are logarithms and do not decay."""
        return {}

    def method_body(self, params: Params, vectors: Tensor) -> Params:
        """Precompute what the method needs of the parameters and the item vectors [C, V]."""
        return {}

    def pair_scores(self, body: Params, state: State, e: Tensor) -> Tensor:
        """Scores [T, N], without item biases, of e [T, N, V] or, the same for all tasks, [N, V]."""
        return state["z"] @ e.T if e.dim() == 2 else torch.einsum("tnv,tv->tn", e, state["z"])

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fresh parameters. Raises ConfigError when the objective is not the data set's, or items have no vector."""
        config, extra = self.config, self.config.width - self.config.dims
        data.schema.require_objective(config.objective, self.name)
        require_item_features(data, config.item_id)
        counts, level = item_bias_prior(data, entities)
        items = torch.arange(FIRST, data.catalogue).numpy()
        params = {
            **init_embedding_bag("items", data.items, items, config.dims, config.scale, generator),
            **init_embedding_bag("entity", data.entities, entities, config.width, config.scale, generator),
            **item_features(data.items),
            **self._init_item_ids(data, generator),
            "start": torch.randn(config.width, generator=generator) * config.scale,
            "bias": level,
            **self.init_method(generator),
        }
        if extra:
            params["start"][-1] = 0
        if config.objective == "ranking":
            params |= init_negatives(counts, config.negatives, generator)
        return params

    def _init_item_ids(self, data: Dataset, generator: torch.Generator) -> Params:
        if not self.config.item_id:
            return {}
        vectors = torch.randn(data.catalogue, self.config.dims, generator=generator) * self.config.scale
        vectors[:FIRST] = 0
        return {"item": vectors}

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> None:
        """None: training needs nothing beside the parameters."""

    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """Return the parameters: nothing is chosen after training."""
        return params

    def is_frozen(self, key: str) -> bool:
        return is_buffer(key) or key in ("log_q", "negatives")

    def param_group(self, key: str) -> ParamGroup:
        is_level = key in ("bias", "start") or key.startswith(("rate.", "log_"))  # must not shrink to 0
        return ParamGroup(rate=0.1 if key == "bias" else 1.0, decay=0.0 if is_level else self.config.decay)

    def body(self, params: Params) -> Params:
        return self._body(params, self._item_vectors(params))

    def _item_vectors(self, params: Params) -> Tensor:
        own = [params["item"]] if self.config.item_id else []
        return torch.stack([*own, *embed_fields(params, "items", catalogue_features(params))]).sum(0)

    def _body(self, params: Params, vectors: Tensor) -> Params:
        body = {k: v for k, v in params.items() if not k.startswith(("catalogue.", "items.")) and k != "item"}
        if self.config.width > self.config.dims:
            vectors = functional.pad(vectors, (0, 1), value=1.0)
        return body | {"vectors": vectors} | self.method_body(params, vectors)

    def adapt(self, body: Params, support: Support) -> State:
        """State of T entities: z [T, V] and what else the method keeps."""
        rows = self._known_rows(support.rows)
        start = torch.stack([body["start"].expand(support.size, -1), *embed_fields(body, "entity", support.features)])
        z, vectors = start.sum(0), functional.embedding(rows.item, body["vectors"])
        residual = self._residual(body, z, vectors, rows)
        weight = (rows.mask / rows.counts.clamp(min=1)[:, None]).to(vectors.dtype)
        return self.encode(body, EncodedRows(z, vectors, residual * rows.mask, rows.mask, weight))

    def _residual(self, body: Params, z: Tensor, vectors: Tensor, rows: Interactions) -> Tensor:
        if self.config.objective == "ranking":
            return torch.ones_like(vectors[:, :, 0])
        scores = torch.einsum("tsv,tv->ts", vectors, z) + body["bias"][rows.item]
        return rows.label - (torch.sigmoid(scores) if self.config.objective == "click" else scores)

    def _known_rows(self, rows: Interactions) -> Interactions:
        return mask_unknown_items(rows) if self.config.objective == "ranking" else rows

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return self.pair_scores(body, state, functional.embedding(rows.item, body["vectors"])) + body["bias"][rows.item]

    def rank(self, body: Params, state: State) -> Tensor:
        return self.pair_scores(body, state, body["vectors"]) + body["bias"]

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        return self._loss(body, state, self._known_rows(support.rows))

    def _loss(self, body: Params, state: State, rows: Interactions, seen: Tensor | None = None) -> Tensor:
        """Loss [T]; a softmax over the catalogue leaves out items that were `seen` [T, S]."""
        if self.config.objective != "ranking":
            loss = squared_error if self.config.objective == "rating" else logistic_loss
            return loss(self.score(body, state, rows), rows)
        if "negatives" in body:
            log_q, negatives = body["log_q"], body["negatives"]
            others = self.pair_scores(body, state, functional.embedding(negatives, body["vectors"]))
            row_log_q = log_q[rows.item].masked_fill(~rows.mask, 0.0)
            own = self.score(body, state, rows)
            return sampled_softmax_loss(own, others + body["bias"][negatives], rows, log_q[negatives], row_log_q)
        logits = mask_reserved_ids(self.rank(body, state))
        if seen is not None:
            logits, rows = mask_support_items(logits, seen, rows)
        return softmax_loss(logits, rows)

    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: None, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean query loss after adapting; logs the distance between start and state."""
        body = self._body(params, dropout(self._item_vectors(params), self.config.dropout, generator))
        if "negatives" in body:
            body["negatives"] = draw_negatives(body["log_q"], self.config.negatives, generator)
        state = self.adapt(body, batch.support)
        losses = self._loss(body, state, self._known_rows(batch.query), batch.support.seen_items)
        every = self._known_rows(batch.whole.query)
        weight = every.counts.to(losses.dtype) ** self.config.size_weight * every.mask.any(1)
        loss = mean_over_tasks(losses, weight, batch.shard)
        return loss, {"length": state["z"].detach().square().sum(1).sqrt().mean()}
